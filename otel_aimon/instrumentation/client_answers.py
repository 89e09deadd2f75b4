"""What the answer of a remote model says of itself: its model, its finish reasons and its usage, never its content.

Usage is what the server reported, and absent where it did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference

_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
_DETAILS = ("prompt_tokens_details", "input_tokens_details")


def read_answer(inference: Inference, answer: Any) -> None:
    """Take over what an answer in OpenAI's format, or a chunk of one, says of itself.

    Args:
        inference: The request.
        answer: Its answer, an object or a dictionary; anything else says nothing.
    """
    answer = part(answer, "response") or answer  # An event of a stream of responses holds the response.
    note_model(inference, part(answer, "model"))
    choices = part(answer, "choices")
    if type(choices) is list:
        for choice in choices:
            note_finish(inference, part(choice, "finish_reason"))
    else:
        _read_status(inference, answer)
    usage = part(answer, "usage")
    if usage is not None:
        read_usage(inference, usage)


def _read_status(inference: Inference, answer: Any) -> None:
    """A response has one status, and says by a reason of its own why it is not complete."""
    status = part(answer, "status")
    if status in {"completed", "incomplete", "failed", "cancelled"}:
        note_finish(inference, part(part(answer, "incomplete_details"), "reason") or status)


def read_usage(inference: Inference, usage: Any) -> None:
    """Take over the tokens that the server counted.

    Args:
        inference: The request.
        usage: In OpenAI's format, an object or a dictionary.
    """
    inference.input_tokens = _first_count(usage, _INPUT, inference.input_tokens)
    if inference.series.generative:
        inference.output_tokens = _first_count(usage, _OUTPUT, inference.output_tokens)
    for name in _DETAILS:
        details = part(usage, name)
        cached = None if details is None else count(part(details, "cached_tokens"))
        if cached is not None:
            inference.cached_tokens = cached


def _first_count(usage: Any, names: tuple[str, ...], otherwise: int | None) -> int | None:
    for name in names:
        tokens = count(part(usage, name))
        if tokens is not None:
            return tokens
    return otherwise


def note_model(inference: Inference, model: Any) -> None:
    """The model that answered."""
    if isinstance(model, str) and model:
        detail(inference, semconv.GEN_AI_RESPONSE_MODEL, model[:128])


def note_finish(inference: Inference, reason: Any) -> None:
    """Why one of the answers ended; each choice of an answer says so once."""
    if isinstance(reason, str) and reason:
        inference.finish_reasons = (*(inference.finish_reasons or ()), reason)


def detail(inference: Inference, name: str, value: Any) -> None:
    """Put an attribute on the request's span."""
    if inference.details is None:
        inference.details = {}
    inference.details[name] = value


def part(whole: Any, name: str) -> Any:
    """A part of an object or of a dictionary; None where it has none."""
    if whole is None:
        return None
    if isinstance(whole, dict):
        return whole.get(name)
    fields = getattr(whole, "__dict__", None)
    if fields is not None and name in fields:
        return fields[name]
    if is_pydantic(whole):
        extra = getattr(whole, "__pydantic_extra__", None)
        return None if extra is None else extra.get(name)
    if hasattr(type(whole), name):
        return getattr(whole, name, None)
    return whole.get(name) if isinstance(whole, Mapping) else None


def is_pydantic(value: Any) -> bool:
    """Whether it is a model of Pydantic's, which takes microseconds to say that it lacks something."""
    return hasattr(type(value), "__pydantic_fields__")


def count(value: Any) -> int | None:
    """A number of tokens; None for what is none."""
    return value if type(value) is int and value >= 0 else None
