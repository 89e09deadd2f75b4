"""Streams of Triton's gRPC clients: many requests go in, each with any number of responses, and all come out of one stream.

A response tells the request that it belongs to by the identifier that the user gave, if any, else by the model.
The server says which response is a request's last, also by an empty one where that was asked for. A request whose
last response it does not tell ends with the stream, at the time of its latest response.
"""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from otel_aimon.instrumentation.tritonclient_errors import IN_STREAM, failed
from otel_aimon.instrumentation.tritonclient_tensors import answered_rows, asked_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference

_FINAL = "triton_final_response"
_MOST = 1000
"""Requests of a stream that are waited for. Who never asks to be told the last responses would pile them up."""


class Asked:
    """A request on a stream.

    Args:
        inference: The request.
        key: Its identifier, or the model where it has none.
        rows: First dimension of its inputs.
        told: The user asked to be told its last response, empty or not.

    Attributes:
        latest_ns: When a response came that is its own, or may be; 0 before.
        shared: Another request was waiting under the same key when its first response may have come.
    """

    __slots__ = ("_set_aside", "_told", "inference", "key", "latest_ns", "rows", "shared")

    def __init__(self, inference: Inference, key: tuple[str, str], rows: int | None, told: bool) -> None:
        self.inference = inference
        self.key = key
        self.rows = rows
        self._told = told
        self._set_aside: dict[int, int] | None = None
        self.latest_ns = 0
        self.shared = False

    def take(self, answer: Any) -> None:
        """A response came."""
        if answer.outputs:
            inference = self.inference
            inference.chunk()
            if inference.batch_size is None:
                inference.batch_size = answered_rows(self.rows, answer)

    def note(self, now: int) -> None:
        """A response came that may be its own."""
        self.latest_ns = now
        if not self._told:
            # Whether it is still in flight nobody will say: it is not counted any more.
            running = self._running()
            if running.pop(id(self.inference), None) is not None:
                self._set_aside = running

    def end(self, at_ns: int | None = None) -> None:
        """All was well."""
        self._resume()
        self.inference.end(at_ns)

    def fail(self, error: BaseException | None = None) -> None:
        """The stream broke off, or, without an error of it, the server could not do what was asked."""
        self._resume()
        if error is None:
            self.inference.fail_as(IN_STREAM)
        else:
            failed(self.inference, error)

    def cancel(self) -> None:
        """The user does not want the rest."""
        self._resume()
        self.inference.cancel()

    def abandon(self) -> None:
        """The user has let go of the stream."""
        self._resume()
        self.inference.abandon()

    def _resume(self) -> None:
        inference = self.inference
        if inference.end_ns:
            return
        # A forked child has requests in flight of its own, to which those of its parent do not belong.
        if self._set_aside is self._running():
            self._set_aside[id(inference)] = inference.start_ns
        if self.shared:
            inference.first_ns = inference.last_ns = 0

    def _running(self) -> dict[int, int]:
        inference = self.inference
        return inference.series.active if inference.owner is None else inference.series.active_stages


class Waiting:
    """The requests that are waited for on one stream. Asked on one thread, answered on another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], deque[Asked]] = {}
        self._count = 0

    def ask(self, inference: Inference, request: Mapping[str, Any]) -> Asked:
        """Wait for the responses of a request that is about to go out.

        Args:
            inference: The request.
            request: What the user says of it, by the names of the parameters of ``async_stream_infer``.
        """
        request_id = request.get("request_id")
        named = isinstance(request_id, str) and request_id
        key = (str(request_id), "") if named else ("", str(request.get("model_name")))
        told = request.get("enable_empty_final_response") is True
        asked = Asked(inference, key, asked_rows(request.get("inputs")), told)
        with self._lock:
            self._waiting.setdefault(key, deque()).append(asked)
            self._count += 1
            oldest = self._oldest() if self._count > _MOST else None
        if oldest is not None:
            oldest.end(oldest.latest_ns)
        return asked

    def forget(self, asked: Asked) -> None:
        """A request did not go out."""
        with self._lock:
            group = self._waiting.get(asked.key)
            if group is not None and asked in group:
                self._take(asked.key, group, asked)

    def answer(self, response: Any) -> None:
        """Take a response.

        Args:
            response: ``ModelStreamInferResponse``; its data are not read.
        """
        answer = response.infer_response
        error = bool(response.error_message)
        last = error or (_FINAL in answer.parameters and answer.parameters[_FINAL].bool_param)
        with self._lock:
            key = self._key(answer, error)
            group = None if key is None else self._waiting.get(key)
            if key is None or group is None:
                return
            asked = group[0]
            if last:
                self._take(key, group, asked)
            else:
                now, shared = perf_counter_ns(), len(group) > 1
                # Which of them it belongs to nobody says. In the order of the requests, the sum of their times is right.
                for each in group:
                    each.shared = each.shared or (shared and not each.inference.first_ns)
                    each.note(now)
        if error:
            asked.fail()
            return
        asked.take(answer)
        if last:
            asked.end()

    def finish(self, error: BaseException | None = None) -> None:
        """The stream is at its end."""
        for asked in self._leave():
            if error is None:
                asked.end(asked.latest_ns or None)
            else:
                asked.fail(error)

    def cancel(self) -> None:
        """The user does not want the rest."""
        for asked in self._leave():
            asked.cancel()

    def abandon(self) -> None:
        """The user has let go of the stream. Called by a finaliser, so it takes no lock."""
        for group in list(self._waiting.values()):
            for asked in list(group):
                asked.abandon()

    def _leave(self) -> list[Asked]:
        with self._lock:
            left = [asked for group in self._waiting.values() for asked in group]
            self._waiting.clear()
            self._count = 0
        return left

    def _key(self, answer: Any, error: bool) -> tuple[str, str] | None:
        named, unnamed = (answer.id, ""), ("", answer.model_name)
        if named in self._waiting:
            return named
        # A server may name requests that their users did not.
        if not error or answer.id or unnamed in self._waiting:
            return unnamed
        # An error may tell neither.
        groups = {key: group for key, group in self._waiting.items() if not key[0]}
        return min(groups, key=lambda each: groups[each][0].inference.start_ns, default=None)

    def _oldest(self) -> Asked | None:
        key, group = next(iter(self._waiting.items()))
        asked = group[0]
        # One that has no response yet is in flight as it seems.
        if asked.latest_ns:
            self._take(key, group, asked)
            return asked
        return None

    def _take(self, key: tuple[str, str], group: deque[Asked], asked: Asked) -> None:
        group.remove(asked)
        self._count -= 1
        if not group:
            del self._waiting[key]
