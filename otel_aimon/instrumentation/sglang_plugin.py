"""The plug-in that SGLang loads in each of its processes, through the entry point group ``sglang.srt.plugins``.

The scheduler notes when each request was queued, had its place in the batch and its first token, but keeps that
to itself unless Prometheus metrics are switched on. The plug-in lets it send these times to the front end with
the last output of a request.
"""

from __future__ import annotations

from typing import Any

_STATS = "sglang.srt.observability.req_time_stats"


def load() -> None:
    """Register with SGLang; versions that cannot send the times are left as they are."""
    from sglang.srt.observability import req_time_stats
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    stats = getattr(req_time_stats, "SchedulerReqTimeStats", None)
    if hasattr(stats, "has_timing_data") and hasattr(stats, "set_completion_time"):
        HookRegistry.register(
            f"{_STATS}.SchedulerReqTimeStats.set_completion_time", _send_times, HookType.AFTER
        )


def _send_times(_result: Any, stats: Any, *_args: Any, **_kwargs: Any) -> None:
    stats.has_timing_data = True
