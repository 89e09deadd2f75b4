"""What is wrong with devices, limits and the sources that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.cli.doctor.findings import Problem, Seen
from otel_aimon.cli.doctor.settings import resolved
from otel_aimon.config import GPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.cli.doctor.devices import Device


def sources_work(seen: Seen) -> Iterator[Problem]:
    """A source that says what is wrong with it says the remedy too."""
    for source in seen.resources.sources:
        if source.wrong:
            yield Problem(
                "warning",
                f"The source {source.name} has no values: {source.why}",
                "Do what the sentence says; otherwise its metrics stay absent.",
            )


def gpus_are_visible(seen: Seen) -> Iterator[Problem]:
    """A process that may use no GPU exports nothing of the GPUs that there are."""
    gpus = _gpus(seen)
    hidden = [device for device in gpus if not device.visible]
    choices = ", ".join(f"{name}={value}" for name, value in seen.resources.choices.items())
    if gpus and len(hidden) == len(gpus):
        yield Problem(
            "warning",
            f"None of the {len(gpus)} GPUs may be used by a process with this environment ({choices or 'no variable set'}).",
            "Name a GPU in the variable, or unset it.",
        )
    elif hidden:
        yield Problem(
            "info",
            f"{len(hidden)} of {len(gpus)} GPUs may not be used by a process with this environment ({choices}); "
            "such a process exports nothing of them.",
            "Nothing, if that is meant.",
        )


def drivers_give_devices(seen: Seen) -> Iterator[Problem]:
    """A container sees that a driver runs, also when it was given no GPU."""
    vendors = {device.vendor for device in _gpus(seen)}
    wrong = {source.name for source in seen.resources.sources if source.wrong}
    for vendor in seen.resources.drivers:
        if vendor not in vendors and vendor.lower() not in wrong:
            yield Problem(
                "info",
                f"A driver of {vendor} runs on this machine, and no {vendor} GPU is read.",
                "In a container: give it the GPUs (docker run --gpus all; in Kubernetes a resource limit).",
            )


def frameworks_can_use_the_gpus(seen: Seen) -> Iterator[Problem]:
    """A CPU build of PyTorch runs on the CPU, whatever GPUs there are."""
    version = next((each.version for each in seen.frameworks if each.name == "torch"), None)
    usable = any(device.visible for device in _gpus(seen))
    if usable and version is not None and version.endswith("+cpu"):
        yield Problem(
            "warning",
            f"There is a GPU, and PyTorch {version} is built for CPUs only.",
            "Install a build of PyTorch for the GPU.",
        )


def processes_can_elect(seen: Seen) -> Iterator[Problem]:
    """Without a lock every worker exports the host, and sums count it several times."""
    found = seen.resources
    if not found.lock_directory_usable and resolved(seen).resources:
        yield Problem(
            "warning",
            f"This user may not make lock files in {found.lock_directory}, so each process exports the metrics of "
            "the host, the container and the devices.",
            "Set OTEL_AIMON_LOCK_DIRECTORY to a directory of this host that all workers may write to.",
        )


def _gpus(seen: Seen) -> list[Device]:
    return [device for device in seen.resources.devices if device.kind == GPU]


CHECKS = (
    sources_work,
    gpus_are_visible,
    drivers_give_devices,
    frameworks_can_use_the_gpus,
    processes_can_elect,
)
