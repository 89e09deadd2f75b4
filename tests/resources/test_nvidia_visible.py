"""Which NVIDIA GPUs CUDA shows, and as which number."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from otel_aimon.resources.nvidia_visible import shown_by_environment, shown_by_torch
from otel_aimon.resources.snapshot import Device


def device(id_: str, model: str | None = "NVIDIA H100", parent: str | None = None) -> Device:
    return Device(id=id_, vendor="NVIDIA", model=model, parent=parent)


ALIKE = [device("GPU-aa11"), device("GPU-aa22"), device("GPU-bb33")]
MIXED = [device("GPU-aa11"), device("GPU-aa22", model="NVIDIA T400"), device("GPU-bb33")]
ALL = {"GPU-aa11": 0, "GPU-aa22": 1, "GPU-bb33": 2}
BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def listed(value: str, **more: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": value, **more}


def order(devices: list[Device], environment: dict[str, str]) -> tuple[set[str] | None, dict[str, int]]:
    shown = shown_by_environment(devices, environment)
    return None if shown.visible is None else set(shown.visible), dict(shown.ordinals)


def test_without_a_list_all_are_visible() -> None:
    assert order(ALIKE, {}) == (None, ALL)
    assert order(ALIKE, BUS) == (None, ALL)


def test_the_fastest_is_the_first_unless_the_bus_decides() -> None:
    assert order(MIXED, {}) == (None, {})
    assert order(MIXED, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) == (None, {})
    assert order(MIXED, BUS) == (None, ALL)
    assert order(MIXED[:1], {}) == (None, {"GPU-aa11": 0})
    assert order([device("GPU-1", None), device("GPU-2", None)], {}) == (None, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", ["GPU-aa11"]),
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        (" 2 , 1 ", ["GPU-bb33", "GPU-aa22"]),
        ("+1", ["GPU-aa22"]),
        ("1gpu2rocm", ["GPU-aa22"]),
        ("0,3,1", ["GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("0,x,1", ["GPU-aa11"]),
        ("0,GPU-bb", ["GPU-aa11"]),
        ("0,,1", ["GPU-aa11"]),
        ("1,1", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("GPU-bb33", ["GPU-bb33"]),
        ("GPU-bb33,GPU-aa11", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-b, GPU-aa2", ["GPU-bb33", "GPU-aa22"]),
        ("GPU-b,GPU-aa", ["GPU-bb33"]),
        ("GPU-aa", []),
        ("GPU-b,1", ["GPU-bb33"]),
        ("GPU-b,GPU-bb33", []),
        ("GPU-none,GPU-b", []),
        ("MIG-none", []),
    ],
)
def test_a_list_is_taken_as_cuda_takes_it(value: str, expected: list[str]) -> None:
    assert order(ALIKE, listed(value)) == (set(expected), {id_: n for n, id_ in enumerate(expected)})


def test_numbers_say_nothing_where_their_order_is_not_known() -> None:
    assert order(MIXED, listed("1")) == (None, {})
    assert order(MIXED, listed("-1")) == (set(), {})
    assert order(MIXED, listed("1", **BUS)) == ({"GPU-aa22"}, {"GPU-aa22": 0})
    assert order(MIXED, listed("GPU-bb33")) == ({"GPU-bb33"}, {"GPU-bb33": 0})


ONE = [device("GPU-1"), device("MIG-1a", parent="GPU-1")]
TWO = [*ONE, device("MIG-1b", parent="GPU-1"), device("GPU-2")]


@pytest.mark.parametrize(
    ("devices", "environment", "visible", "ordinals"),
    [
        (ONE, {}, None, {"MIG-1a": 0}),
        (ONE, listed("0"), {"GPU-1", "MIG-1a"}, {"MIG-1a": 0}),
        (ONE, listed("GPU-1"), {"GPU-1", "MIG-1a"}, {"MIG-1a": 0}),
        (ONE, listed("MIG-1"), {"GPU-1", "MIG-1a"}, {"MIG-1a": 0}),
        (TWO, {}, None, {}),
        (TWO, listed("0"), {"GPU-1", "MIG-1a", "MIG-1b"}, {}),
        (TWO, listed("1"), {"GPU-2"}, {"GPU-2": 0}),
        (TWO, listed("MIG-1b"), {"GPU-1", "MIG-1b"}, {"MIG-1b": 0}),
        (TWO, listed("MIG-1b,MIG-1a"), {"GPU-1", "MIG-1a", "MIG-1b"}, {"MIG-1b": 0}),
        (TWO, listed("MIG-1"), set(), {}),
        (TWO, listed("MIG-1a,GPU-2"), {"GPU-1", "MIG-1a"}, {"MIG-1a": 0}),
        (TWO, listed(""), set(), {}),
    ],
)
def test_a_mig_instance_is_visible_with_its_gpu(
    devices: list[Device], environment: dict[str, str], visible: set[str] | None, ordinals: dict[str, int]
) -> None:
    assert order(devices, environment) == (visible, ordinals)


class TestTorch:
    """PyTorch knows its devices, whatever the environment says."""

    @staticmethod
    def put(
        monkeypatch: pytest.MonkeyPatch, *uuids: str, initialised: bool = True, cuda: str | None = "12.8"
    ) -> None:
        def properties(number: int) -> Any:
            assert initialised, "asking would initialise CUDA"
            return SimpleNamespace(uuid=uuids[number])

        torch = SimpleNamespace(
            version=SimpleNamespace(cuda=cuda),
            cuda=SimpleNamespace(
                is_initialized=lambda: initialised,
                device_count=lambda: len(uuids),
                get_device_properties=properties,
            ),
        )
        monkeypatch.setitem(sys.modules, "torch", torch)

    def test_its_order_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(monkeypatch, "bb33", "aa11")
        shown = shown_by_torch(MIXED)
        assert shown is not None
        assert (shown.visible, shown.ordinals) == ({"GPU-bb33", "GPU-aa11"}, {"GPU-bb33": 0, "GPU-aa11": 1})

    def test_an_instance_is_visible_with_its_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(monkeypatch, "1b")
        shown = shown_by_torch(TWO)
        assert shown is not None
        assert (shown.visible, shown.ordinals) == ({"GPU-1", "MIG-1b"}, {"MIG-1b": 0})

    def test_it_is_not_asked_before_the_application_uses_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(monkeypatch, "aa11", initialised=False)
        assert shown_by_torch(ALIKE) is None

    @pytest.mark.parametrize("uuids", [("cc44",), ("1",), ("aa11", "cc44")])
    def test_what_cannot_be_matched_says_nothing(
        self, monkeypatch: pytest.MonkeyPatch, uuids: tuple[str, ...]
    ) -> None:
        self.put(monkeypatch, *uuids)
        assert shown_by_torch([*TWO, *ALIKE]) is None

    def test_of_rocm_nothing_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(monkeypatch, "aa11", cuda=None)
        assert shown_by_torch(ALIKE) is None

    def test_an_older_one_does_not_know(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(monkeypatch, "aa11")
        monkeypatch.setattr(sys.modules["torch"].cuda, "get_device_properties", lambda number: object())
        assert shown_by_torch(ALIKE) is None

    def test_a_module_in_the_midst_of_its_import_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
        assert shown_by_torch(ALIKE) is None

    def test_without_it_nothing_is_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert shown_by_torch(ALIKE) is None
        assert "torch" not in sys.modules
