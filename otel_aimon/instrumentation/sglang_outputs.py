"""What the scheduler's outputs say of a sequence that has ended.

An output is one object for all sequences of a step: lists with a place for each. Only the places of those that
have ended are read. The same numbers stand in ``meta_info``, the part of a result that says how it came about.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_ABORT = "abort"

_REFUSALS = frozenset(range(400, 600))
"""Status codes with which the scheduler refuses a request."""


class Times(NamedTuple):
    """What the scheduler's clock says of a sequence, in seconds of this process's monotonic clock.

    Attributes:
        queued: How long it waited for its place in the batch.
        scheduled: When it had its place.
        first: When its prompt was processed, and its first token was there.
    """

    queued: float
    scheduled: float
    first: float


class Output(NamedTuple):
    """The end of a sequence; None is not known.

    Attributes:
        input_tokens: Tokens of its prompt.
        output_tokens: Tokens generated.
        cached_tokens: Tokens of its prompt that were in the prefix cache.
        reason: Why it ended, in SGLang's word.
        refused: Status code with which the scheduler refused it.
        times: From the scheduler's clock.
    """

    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reason: str | None
    refused: int | None = None
    times: Times | None = None

    @property
    def aborted(self) -> bool:
        """Somebody did not want it any more."""
        return self.reason == _ABORT and self.refused is None


def finished_in(outputs: Any) -> list[int]:
    """Places of the sequences that have ended with an output."""
    reasons = outputs.finished_reasons
    if type(reasons) is not list or reasons.count(None) == len(reasons):
        return []
    return [place for place, reason in enumerate(reasons) if reason is not None]


def output_at(outputs: Any, place: int) -> Output:
    """The end of one sequence.

    Args:
        outputs: Of all sequences in a step, after SGLang has unpacked them.
        place: Of the one.
    """
    reason, refused = reason_of(at(outputs, "finished_reasons", place))
    return Output(
        _count(at(outputs, "prompt_tokens", place)),
        _count(at(outputs, "completion_tokens", place)),
        _count(at(outputs, "cached_tokens", place)),
        reason,
        refused,
        _times(at(outputs, "time_stats", place)),
    )


def output_in(meta: dict[str, Any]) -> Output:
    """The end of a sequence, from a result's ``meta_info``."""
    reason, refused = reason_of(meta.get("finish_reason"))
    inputs, cached = input_tokens_of(meta)
    return Output(inputs, _count(meta.get("completion_tokens")), cached, reason, refused)


def input_tokens_of(meta: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt, and those of them that were in the cache."""
    return _count(meta.get("prompt_tokens")), _count(meta.get("cached_tokens"))


def is_last(meta: dict[str, Any]) -> bool:
    """Whether nothing comes after this result."""
    return meta.get("finish_reason") is not None


def at(outputs: Any, name: str, place: int) -> Any:
    """A value of one sequence; None where this version of SGLang does not say."""
    values = getattr(outputs, name, None)
    return values[place] if type(values) is list and place < len(values) else None


def reason_of(told: Any) -> tuple[str | None, int | None]:
    """Why a sequence ended, and the status code with which the scheduler refused it."""
    if type(told) is not dict:
        return None, None
    reason, status = told.get("type"), told.get("status_code")
    refused = int(status) if reason == _ABORT and status in _REFUSALS else None
    return reason if isinstance(reason, str) else None, refused


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _times(stats: Any) -> Times | None:
    """The scheduler's times, where it sends them."""
    scheduled = getattr(stats, "forward_entry_time", None)
    first = getattr(stats, "prefill_finished_time", None)
    if not isinstance(scheduled, float) or not isinstance(first, float) or not 0 < scheduled <= first:
        return None
    queued = getattr(stats, "queue_duration_s", None)
    if not isinstance(queued, float):
        queued = scheduled - stats.wait_queue_entry_time
    return Times(max(queued, 0.0), scheduled, first)
