"""Where the SDK's providers keep what exports: private attributes, looked for and never relied upon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = (
    ("_active_span_processor", "_span_processors"),
    ("_measurement_consumer", "_reader_storages"),
    ("_multi_log_record_processor", "_log_record_processors"),
)
"""The processors and readers of the providers of tracers, meters and loggers."""

_EXPORTERS = (("_batch_processor", "_exporter"), ("span_exporter",), ("_exporter",))
"""Where one keeps its exporter."""


def find(start: Any, *path: str) -> Any:
    """The attribute at the end of ``path``, or None where there is no such path."""
    for name in path:
        start = getattr(start, name, None)
    return start


def parts(providers: tuple[Any, Any, Any]) -> Iterator[Any]:
    """Processors and readers, as far as they are where the SDK keeps them.

    Args:
        providers: Of tracers, meters and loggers.
    """
    for provider, path in zip(providers, _PARTS, strict=True):
        yield from find(provider, *path) or ()


def exporting_parts(providers: tuple[Any, Any, Any]) -> Iterator[tuple[Any, Any]]:
    """The same with their exporters, without those that have none."""
    for part in parts(providers):
        for name in _EXPORTERS:
            exporter = find(part, *name)
            if exporter is not None:
                yield part, exporter
                break
