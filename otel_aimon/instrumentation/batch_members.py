"""Prompts on which a generator works together: each is a request of its own, or a part of a call that has several."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference


class Alone:
    """A prompt that its user gave to the generator: a request of its own.

    Attributes:
        inference: The request.
    """

    __slots__ = ("inference",)

    def __init__(self, inference: Inference) -> None:
        self.inference = inference

    def cancel(self) -> None:
        """End the request: its prompt was taken back."""
        self.inference.cancel()

    def fail(self, error: BaseException) -> None:
        """End the request as failed."""
        self.inference.fail(error)

    def abandon(self) -> None:
        """End the request, from a finaliser."""
        self.inference.abandon()


class Part:
    """A prompt of a call, which is the request and ends it."""

    __slots__ = ()

    def cancel(self) -> None:
        """Leave the end to the call."""

    def fail(self, error: BaseException) -> None:
        """Leave the end to the call."""

    def abandon(self) -> None:
        """Leave the end to the call."""
