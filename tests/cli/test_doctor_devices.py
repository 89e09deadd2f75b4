"""Devices, limits, sources, and what will be emitted with them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_aimon import semconv
from otel_aimon.cli import doctor
from otel_aimon.cli.doctor import device_checks, devices, installation, neighbours, settings, signals
from otel_aimon.cli.doctor import sampling as doctor_sampling
from otel_aimon.cli.doctor.devices import Device, Resources
from otel_aimon.cli.doctor.findings import Seen
from otel_aimon.cli.doctor.frameworks import SeenFramework
from otel_aimon.cli.doctor.sampling import SourceState
from otel_aimon.instrumentation.registry import FRAMEWORKS
from otel_aimon.resources import sampler as sampling
from otel_aimon.resources.monitor import ResourceMonitor
from otel_aimon.resources.sampler import Feed
from otel_aimon.resources.source import UnavailableError
from tests.cli.doctoring import problems, remedies, seen
from tests.support.snapshots import CONTAINER, DEVICE, FRAMEWORK, HOST, PROCESS, Counting, Fixed
from tests.support.telemetry import wait_until

BEFORE = (installation.PART, settings.PART)
GPU = Device(
    "GPU-1", "gpu", "NVIDIA", "gpu0", "H100", ("cuda:0",), True, {"memory_limit": 1000, "energy": 5.0}
)
EMPTY = Resources({}, {}, {}, None, None, (), (), {}, (), "/tmp/otel-aimon", True, ())
TORCH = SeenFramework("torch", "PyTorch", ("torch",), "2.13.0+cpu", "2.13", "aimon_torch", True, None)


class Missing(Fixed):
    def __init__(self, why: str, level: int) -> None:
        super().__init__(None)
        self.error = UnavailableError(why, level=level)

    def read(self) -> Any:
        raise self.error


class Hanging(Fixed):
    """A driver whose call returns when it is released."""

    def __init__(self) -> None:
        super().__init__(())
        self.released = threading.Event()

    def read(self) -> Any:
        self.released.wait(30)
        return self.reading


class Slow(Fixed):
    """A driver whose first call takes longer than anybody waits."""

    asked = 0

    def read(self) -> Any:
        self.asked += 1
        if self.asked == 1:
            time.sleep(0.2)
        return self.reading


@pytest.fixture
def feeds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*given: Feed) -> None:
        monkeypatch.setattr(ResourceMonitor, "_feeds", lambda _self, _settings: list(given))

    return put


def everything() -> list[Feed]:
    return [
        Feed("process", "process", Fixed(PROCESS)),
        Feed("host", "host", Fixed(HOST)),
        Feed("container", "container", Fixed(CONTAINER)),
        Feed("nvidia", "devices", Counting(DEVICE), driver=True),
        Feed("frameworks", "frameworks", Fixed((FRAMEWORK,))),
    ]


def looked(**variables: str) -> Seen:
    return seen(variables, (*BEFORE, devices.PART))


class TestSampling:
    def test_this_machine(self) -> None:
        found = looked().resources
        states = {each.name: each.available for each in found.sources}
        assert (states["process"], states["host"]) == (True, True)
        assert found.process["memory_resident"] > 0
        assert 0.0 <= found.host["available_cpu_share"] <= 1.0, "the second sampling has shares"
        assert "process.cpu.utilization" in found.observed
        for each in found.sources:
            assert (each.why is None) is bool(each.available)
        left = ("aimon-sampler", "aimon-nvidia", "aimon-amd", "aimon-intel", "doctor-connect")
        wait_until(lambda: not any(thread.name in left for thread in threading.enumerate()))

    def test_everything_that_can_be_known(self, feeds: Callable[..., None]) -> None:
        feeds(*everything())
        found = looked(CUDA_VISIBLE_DEVICES="MIG-1").resources
        assert found.host["memory_limit"] == 8000
        assert found.container["pressure"] == {"cpu some": 0.5, "memory full": 0.0}
        assert (found.cpu_utilization, found.memory_utilization) == (0.5, 0.75)
        assert found.choices == {"CUDA_VISIBLE_DEVICES": "MIG-1"}
        (device,) = found.devices
        assert (device.id, device.name, device.ordinals, device.visible) == (
            "MIG-1",
            "gpu0/mig0",
            ("cuda:0",),
            True,
        )
        assert device.values["states"] == ["degraded"]
        assert device.values["throttle_reasons"] == ["hw_thermal", "sync_boost"]
        lines = "\n".join(devices.tell(found))
        assert "used / available  CPU 50%, memory 75%" in lines
        assert "gpu0/mig0  H100   cuda:0  250 B of 1000 B   50%  300 W         45 C  yes" in lines
        assert "CUDA_VISIBLE_DEVICES=MIG-1" in lines

    def test_each_source_says_why_it_has_nothing(self, feeds: Callable[..., None], caplog: Any) -> None:
        feeds(
            Feed("host", "host", Fixed(HOST)),
            Feed("nvidia", "devices", Missing("there is no driver.", logging.DEBUG), driver=True),
            Feed(
                "amd", "devices", Missing("the driver is too old; update it.", logging.WARNING), driver=True
            ),
        )
        found = looked()
        assert found.resources.sources == (
            SourceState("host", True, None, False),
            SourceState("nvidia", False, "there is no driver.", False),
            SourceState("amd", False, "the driver is too old; update it.", True),
        )
        assert problems((device_checks.sources_work,), found) == [
            ("warning", "sources_work", "The source amd has no values: the driver is too old; update it.")
        ]
        assert caplog.records == []

    def test_a_driver_that_hangs(self, feeds: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampling, "PATIENCE", 0.05)
        monkeypatch.setattr(doctor_sampling, "_MOST_SECONDS", 0.5)
        hanging = Hanging()
        feeds(Feed("host", "host", Fixed(HOST)), Feed("nvidia", "devices", hanging, driver=True))
        found = looked()
        assert found.resources.sources[1] == SourceState(
            "nvidia", False, "nvidia has not answered within 0.1 s.", True
        )
        assert found.resources.host != {}
        hanging.released.set()
        wait_until(lambda: hanging.closed)

    def test_a_driver_that_is_slow_to_start(
        self, feeds: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sampling, "PATIENCE", 0.05)
        monkeypatch.setattr(doctor_sampling, "_MOST_SECONDS", 30.0)
        slow = Slow((DEVICE,))
        feeds(Feed("nvidia", "devices", slow, driver=True))
        found = looked().resources
        assert [each.id for each in found.devices] == ["MIG-1"]
        assert found.sources == (SourceState("nvidia", True, None, False),)
        assert slow.asked >= 3, "the answer that came late is not used"

    def test_takes_no_part_in_elections(self, tmp_path: Path) -> None:
        found = looked(OTEL_AIMON_LOCK_DIRECTORY=str(tmp_path / "locks")).resources
        assert (found.lock_directory_usable, list(tmp_path.iterdir())) == (True, [])
        assert "system.memory.limit" in found.observed


class TestChecks:
    def found(self, resources: Resources, **variables: str) -> list[tuple[str, str, str]]:
        return problems(
            device_checks.CHECKS, seen(variables, BEFORE, resources=resources, frameworks=(TORCH,))
        )

    def test_nothing_is_wrong_without_a_gpu(self) -> None:
        assert self.found(EMPTY) == []

    def test_no_gpu_is_visible(self) -> None:
        hidden = replace(EMPTY, devices=(replace(GPU, visible=False),), choices={"CUDA_VISIBLE_DEVICES": ""})
        assert self.found(hidden) == [
            (
                "warning",
                "gpus_are_visible",
                "None of the 1 GPUs may be used by a process with this environment (CUDA_VISIBLE_DEVICES=).",
            )
        ]

    def test_some_gpus_are_not_visible(self) -> None:
        some = replace(
            EMPTY,
            devices=(GPU, replace(GPU, id="GPU-2", visible=False)),
            choices={"CUDA_VISIBLE_DEVICES": "0"},
        )
        found = problems((device_checks.gpus_are_visible,), seen({}, BEFORE, resources=some))
        assert [(severity, what.split(" GPUs")[0]) for severity, _, what in found] == [("info", "1 of 2")]

    def test_a_cpu_build_beside_a_gpu(self) -> None:
        assert self.found(replace(EMPTY, devices=(GPU,))) == [
            (
                "warning",
                "frameworks_can_use_the_gpus",
                "There is a GPU, and PyTorch 2.13.0+cpu is built for CPUs only.",
            )
        ]

    def test_a_driver_without_a_gpu(self) -> None:
        none = replace(EMPTY, drivers=("NVIDIA",))
        assert self.found(none) == [
            (
                "info",
                "drivers_give_devices",
                "A driver of NVIDIA runs on this machine, and no NVIDIA GPU is read.",
            )
        ]
        said = replace(none, sources=(SourceState("nvidia", False, "nvidia-ml-py is missing.", True),))
        assert [check for _, check, _ in self.found(said)] == ["sources_work"], "once is enough"

    def test_locks_cannot_be_made(self, tmp_path: Path) -> None:
        unusable = replace(EMPTY, lock_directory="/locks", lock_directory_usable=False)
        ((severity, check, _),) = self.found(unusable)
        assert (severity, check) == ("warning", "processes_can_elect")
        assert self.found(unusable, OTEL_AIMON_RESOURCES="none") == []

    def test_which_directories_can_have_locks(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to(tmp_path)
        usable = {
            name: devices._may_lock_in(tmp_path / name)
            for name in (".", "new/deep", "file", "file/below", "link")
        }
        assert usable == {".": True, "new/deep": True, "file": False, "file/below": False, "link": False}


class TestSignals:
    ALL = tuple(metric.name for metric in semconv.METRICS)

    def emitted(self, resources: Resources, neighbours: Any = (), **variables: str) -> signals.Signals:
        parts = (*BEFORE, signals.PART)
        return seen(variables, parts, resources=resources, frameworks=(TORCH,), neighbours=neighbours).signals

    def absent(self, found: signals.Signals) -> dict[str, str]:
        return {name: why for each in found.metrics for name, why in each.absent.items()}

    def test_every_metric_is_emitted_or_absent_for_a_reason(self, feeds: Callable[..., None]) -> None:
        feeds(*everything())
        found = self.emitted(
            looked().resources, OTEL_AIMON_UNIQUE_MEMORY="true", OTEL_AIMON_EVENT_LOOP_LAG="true"
        )
        absent = self.absent(found)
        engines = {name for name in self.ALL if name.startswith("aimon.engine.")}
        assert {absent.pop(name) for name in engines} == {"no serving engine is instrumented"}
        assert absent == {"hw.energy": "not known here, or not limited"}, "of CPU packages"
        assert {name for each in found.metrics for name in each.emitted} == set(self.ALL) - engines
        assert [each.section for each in found.metrics] == [
            "inference", "engines", "process", "container", "host", "gpu", "selfmon",
        ]  # fmt: skip
        assert found.spans == (
            signals.Spans(
                "torch",
                "modules on which `eval()` is called, and compiled, scripted and exported modules, with gradients off",
            ),
        )

    def test_reasons(self) -> None:
        beside = neighbours.Neighbour("s", "other", "1", True, None, "", ("process.cpu.time",))
        found = self.absent(
            self.emitted(EMPTY, (beside,), OTEL_AIMON_STAGES="no", OTEL_AIMON_RESOURCES="process,gpu")
        )
        assert {name: found[name] for name in (
            "aimon.inference.stage.duration", "aimon.inference.energy", "process.cpu.time", "process.memory.usage",
            "aimon.process.memory.unique", "aimon.cpu.limit", "system.cpu.time", "hw.power",
            "aimon.framework.memory.usage",
        )} == {
            "aimon.inference.stage.duration": "the setting stages is off",
            "aimon.inference.energy": "no device tells its energy",
            "process.cpu.time": "left to other",
            "process.memory.usage": "not known here, or not limited",
            "aimon.process.memory.unique": "the setting unique_memory is off",
            "aimon.cpu.limit": "the setting resources leaves container out",
            "system.cpu.time": "the setting resources leaves host out",
            "hw.power": "no GPU is read",
            "aimon.framework.memory.usage": "no GPU is read",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("variables", "why"),
        [
            ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED is true"),
            ({"OTEL_AIMON_ENABLED": "false"}, "otel-aimon is switched off by its setting enabled"),
            (
                {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS is *",
            ),
            (
                {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(
                    ["aimon", *(f"aimon_{each.name}" for each in FRAMEWORKS)]
                )},
                "none of the entry points of otel-aimon is enabled",
            ),
        ],
    )  # fmt: skip
    def test_nothing_at_all(self, variables: dict[str, str], why: str) -> None:
        found = self.emitted(EMPTY, **variables)
        assert set(self.absent(found).values()) == {why}
        assert set(self.absent(found)) == set(self.ALL)


def test_remedies_of_devices() -> None:
    for check in device_checks.CHECKS:
        assert check in doctor.CHECKS
    assert remedies(device_checks.CHECKS, seen({}, BEFORE, resources=EMPTY, frameworks=())) == []
