"""Frameworks tell what they hold on devices, and are neither imported nor initialised for it.

No machine of the tests has an accelerator: what a framework answers on one is played here by modules
that answer as its documentation and source say.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from otel_aimon.core import guard
from otel_aimon.resources.frameworks import FrameworkMemorySource
from otel_aimon.resources.snapshot import FrameworkMemory
from tests.support import scripts


@pytest.fixture
def source() -> FrameworkMemorySource:
    return FrameworkMemorySource()


def plays(monkeypatch: pytest.MonkeyPatch, name: str, **answers: Any) -> None:
    """Let a module be imported already."""
    module = ModuleType(name)
    for attribute, value in answers.items():
        setattr(module, attribute, value)
    monkeypatch.setitem(sys.modules, name, module)


def never(*_: object) -> Any:
    raise AssertionError("this would initialise a device")


def allocator(current: int, reserved: int, peak: int = 1) -> dict[str, Any]:
    def stat(now: int) -> dict[str, Any]:
        return {"all": {"current": now, "peak": peak, "allocated": peak, "freed": 0}}

    return {"allocated_bytes": stat(current), "reserved_bytes": stat(reserved)}


def test_it_imports_nothing(tmp_path: Path) -> None:
    source = """
        import json
        import sys
        from otel_aimon.resources.frameworks import FrameworkMemorySource
        read = FrameworkMemorySource().read()
        print(json.dumps([read, [name for name in ("torch", "jax", "tensorflow") if name in sys.modules]]))
    """
    assert scripts.run(tmp_path, source) == [[], []]


@pytest.mark.parametrize("backend", ["cuda", "xpu"])
def test_torchs_allocator_on_each_device_that_it_has_used(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    stats = [allocator(100, 300), allocator(0, 0, peak=0), allocator(0, 200)]
    plays(
        monkeypatch,
        f"torch.{backend}",
        is_initialized=lambda: True,
        device_count=lambda: len(stats),
        memory_stats_as_nested_dict=stats.__getitem__,
    )
    assert source.read() == (
        FrameworkMemory(framework="torch", device=f"{backend}:0", allocated=100, reserved=300),
        FrameworkMemory(framework="torch", device=f"{backend}:2", allocated=0, reserved=200),
    )


def test_torch_that_is_not_initialised_is_not_asked(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays(
        monkeypatch,
        "torch.cuda",
        is_initialized=lambda: False,
        device_count=never,
        memory_stats_as_nested_dict=never,
    )
    assert source.read() == ()


class FakeJaxDevice:
    def __init__(self, name: str, stats: dict[str, int] | None) -> None:
        self.name = name
        self.stats = stats

    def __str__(self) -> str:
        return self.name

    def memory_stats(self) -> dict[str, int] | None:
        return self.stats


def jax_client(platform: str, *devices: FakeJaxDevice) -> Any:
    return SimpleNamespace(platform=platform, local_devices=lambda: list(devices))


def test_jax_tells_of_backends_that_are_there(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = {
        "cpu": SimpleNamespace(platform="cpu", local_devices=never),
        "cuda": jax_client(
            "cuda",
            FakeJaxDevice("cuda:0", {"bytes_in_use": 10, "pool_bytes": 40, "bytes_limit": 100}),
            FakeJaxDevice("cuda:1", {"bytes_in_use": 20}),
            FakeJaxDevice("cuda:2", None),
            FakeJaxDevice("cuda:3", {}),
        ),
    }
    plays(monkeypatch, "jax._src.xla_bridge", _backends=backends, backends=never, devices=never)
    assert source.read() == (
        FrameworkMemory(framework="jax", device="cuda:0", allocated=10, reserved=40),
        FrameworkMemory(framework="jax", device="cuda:1", allocated=20),
    )


def test_jax_without_backends_is_not_asked(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays(monkeypatch, "jax._src.xla_bridge", _backends={}, backends=never, devices=never)
    assert source.read() == ()


def tensorflow_context(handle: object) -> Any:
    def device(kind: str, index: int) -> Any:
        return SimpleNamespace(name=f"/device:{kind}:{index}", device_type=kind)

    return SimpleNamespace(
        _context_handle=handle,
        _logical_devices=[device("CPU", 0), device("GPU", 0), device("GPU", 1)] if handle else None,
        get_memory_info={
            "GPU:0": {"current": 7, "peak": 9},
            "GPU:1": {"current": 8, "peak": 9},
        }.__getitem__
        if handle
        else never,
    )


def test_tensorflow_tells_of_a_context_that_is_there(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "tensorflow.python.eager.context"
    plays(monkeypatch, name, context_safe=lambda: tensorflow_context(object()), context=never)
    assert source.read() == (
        FrameworkMemory(framework="tensorflow", device="gpu:0", allocated=7),
        FrameworkMemory(framework="tensorflow", device="gpu:1", allocated=8),
    )


@pytest.mark.parametrize("context", [None, tensorflow_context(None)], ids=["no context", "no handle"])
def test_tensorflow_that_has_not_begun_is_not_asked(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch, context: Any
) -> None:
    plays(monkeypatch, "tensorflow.python.eager.context", context_safe=lambda: context, context=never)
    assert source.read() == ()


@pytest.mark.parametrize(
    "name", ["torch.cuda", "torch.xpu", "jax._src.xla_bridge", "tensorflow.python.eager.context"]
)
def test_another_version_or_half_an_import_is_absent(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plays(monkeypatch, name)
    assert source.read() == ()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), OSError("anything")], ids=repr)
def test_a_framework_that_fails_leaves_the_others(
    source: FrameworkMemorySource, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails() -> bool:
        raise error

    monkeypatch.setattr(guard, "RERAISE", False)
    plays(monkeypatch, "torch.cuda", is_initialized=fails)
    backends = {"cuda": jax_client("cuda", FakeJaxDevice("cuda:0", {"bytes_in_use": 10}))}
    plays(monkeypatch, "jax._src.xla_bridge", _backends=backends)
    assert source.read() == (FrameworkMemory(framework="jax", device="cuda:0", allocated=10),)


def test_nothing_is_kept_over_a_fork_or_held_at_the_end(source: FrameworkMemorySource) -> None:
    source.after_fork_in_child()
    source.close()
    assert source.read() == ()
