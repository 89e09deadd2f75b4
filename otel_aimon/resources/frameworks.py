"""Memory that frameworks hold on devices, as their own allocators count it.

Nothing is imported, initialised or waited for: a framework that the application has not imported, or
has not brought onto a device yet, has no reading. All numbers are kept by the allocators in host
memory, so that reading them does not wait for a device.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import swallow
from otel_aimon.resources.snapshot import FrameworkMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Reader = Callable[[Any], Iterable[FrameworkMemory]]

logger = logging.getLogger("otel_aimon")


class FrameworkMemorySource:
    """Reads the allocators of the frameworks that are there."""

    def read(self) -> tuple[FrameworkMemory, ...]:
        """One entry per framework and device on which it has allocated; none on a CPU."""
        found: list[FrameworkMemory] = []
        for name, read in _READERS:
            module = sys.modules.get(name)
            if module is None:
                continue
            try:
                found.extend(read(module))
            except (AttributeError, LookupError, RuntimeError) as error:
                # Another version, in the midst of its import, an allocator that does not count, a broken device.
                logger.debug("otel-aimon: %s does not tell its memory (%s).", name, type(error).__name__)
            except Exception as error:
                swallow(error, f"the memory of {name}")
        return tuple(found)

    def after_fork_in_child(self) -> None:
        """Nothing is kept; frameworks know themselves that they cannot be used after a fork."""

    def close(self) -> None:
        """Nothing is held."""


def _torch(backend: Any, kind: str) -> Iterator[FrameworkMemory]:
    """The caching allocator of ``torch.cuda`` or ``torch.xpu``."""
    if not backend.is_initialized():
        return
    for index in range(backend.device_count()):
        stats = backend.memory_stats_as_nested_dict(index)
        allocated, reserved = stats["allocated_bytes"]["all"], stats["reserved_bytes"]["all"]
        if reserved["peak"] or reserved["allocated"]:
            yield FrameworkMemory(
                framework="torch",
                device=f"{kind}:{index}",
                allocated=allocated["current"],
                reserved=reserved["current"],
            )


def _jax(bridge: Any) -> Iterator[FrameworkMemory]:
    # The public functions that list devices would make the backends first.
    for client in list(bridge._backends.values()):
        if client.platform == "cpu":
            continue
        for device in client.local_devices():
            stats = device.memory_stats()
            if stats and "bytes_in_use" in stats:
                yield FrameworkMemory(
                    framework="jax",
                    device=str(device),
                    allocated=stats["bytes_in_use"],
                    reserved=stats.get("pool_bytes"),
                )


def _tensorflow(context: Any) -> Iterator[FrameworkMemory]:
    current = context.context_safe()
    # Without a handle, the question for the memory would make one, and with it take the GPUs.
    if current is None or current._context_handle is None:
        return
    for device in list(current._logical_devices or ()):
        if device.device_type != "GPU":
            continue
        index = device.name.rpartition(":")[2]
        memory = current.get_memory_info(f"GPU:{index}")
        yield FrameworkMemory(framework="tensorflow", device=f"gpu:{index}", allocated=memory["current"])


_READERS: tuple[tuple[str, Reader], ...] = (
    ("torch.cuda", lambda cuda: _torch(cuda, "cuda")),
    ("torch.xpu", lambda xpu: _torch(xpu, "xpu")),
    ("jax._src.xla_bridge", _jax),
    ("tensorflow.python.eager.context", _tensorflow),
)
"""In which module each framework keeps its devices, and how it is asked.

``torch.mps`` is not here: it does not tell whether it is initialised, and asking it would initialise it.
"""
