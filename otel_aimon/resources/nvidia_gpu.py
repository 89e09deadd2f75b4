"""One GPU or MIG instance: asks NVML about it, and remembers what it cannot answer."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.nvidia_library import LOST, UNSUPPORTED, Failure, Nvml, RestartNeeded
from otel_aimon.resources.source import notices

if TYPE_CHECKING:
    from otel_aimon.resources.snapshot import Device

_REMEDIES = {
    "NO_PERMISSION": " See the permissions of /dev/nvidia*; some values are for root only.",
}


class LostError(Exception):
    """The GPU is gone."""


@dataclass(slots=True, eq=False)
class Gpu:
    """What is asked, and what it said before.

    Attributes:
        nvml: NVML, started.
        handle: NVML's.
        name: In notices.
        device: What identifies it; None until that is known.
        instance_of: The GPU whose MIG instance this is.
        gpu_instance: NVML's number of the MIG instance.
        mig: Whether it is divided into MIG instances.
        lost: Whether it is gone in this reading.
        unsupported: What it will never answer.
        failures: What had no answer in this reading, and why.
        answered: Whether anything had an answer in this reading.
        seen: Newest timestamp of each kind of sample, in the driver's microseconds.
        counters: Time and value of each counter whose rate is wanted.
        gpm: Previous sample of the profiling counters, and one to fill.
        said: What was logged, by its reason; outlives a restart of NVML.
    """

    nvml: Nvml
    handle: Any
    name: str
    device: Device | None = None
    instance_of: Gpu | None = None
    gpu_instance: int | None = None
    mig: bool = False
    lost: bool = False
    unsupported: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    answered: bool = False
    seen: dict[str, int] = field(default_factory=dict)
    counters: dict[str, tuple[float, int]] = field(default_factory=dict)
    gpm: list[Any] = field(default_factory=list)
    said: dict[str, set[str]] = field(default_factory=dict)

    @property
    def address(self) -> int | None:
        """What NVML's handle points to: the same for the same device."""
        return ctypes.cast(self.handle, ctypes.c_void_p).value

    def ask(self, function: str, *args: Any, label: str = "", otherwise: dict[str, Any] | None = None) -> Any:
        """Call a function of pynvml for this device.

        Args:
            function: Which.
            args: After the handle.
            label: Under which its failures are remembered, where that depends on the arguments.
            otherwise: What to return for certain errors that say something.

        Returns:
            The answer; None when there is none.
        """
        answer = self.call(function, self.handle, *args, label=label, otherwise=otherwise)
        self.answered = self.answered or answer is not None
        return answer

    def call(
        self, function: str, *args: Any, label: str = "", otherwise: dict[str, Any] | None = None
    ) -> Any:
        """As :meth:`ask`, for functions whose first argument is not the handle."""
        label = label or function
        if label in self.unsupported:
            return None
        try:
            return self.nvml.call(function, *args)
        except Failure as failure:
            if otherwise is not None and failure.reason in otherwise:
                return otherwise[failure.reason]
            self.failed(label, failure.reason)
            return None

    def failed(self, label: str, reason: str) -> None:
        """Remember that something had no answer.

        Raises:
            LostError: The GPU is gone.
            RestartNeeded: NVML must be started anew.
        """
        if reason in LOST:
            raise LostError(reason)
        if self.nvml.must_restart(reason):
            raise RestartNeeded(label)
        if reason in UNSUPPORTED:
            self.unsupported.add(label)
        else:
            self.failures[label] = reason

    def begin(self) -> None:
        """Start a reading."""
        self.answered = self.lost = False
        self.failures.clear()

    def say_failures(self) -> None:
        """One line for each error of this reading that is new; what is over may be said again."""
        reasons = set(self.failures.values())
        for reason in self.said.keys() - reasons:
            del self.said[reason]
            notices.forget(f"nvml {self.name} {reason}:")
        for reason in reasons:
            said = self.said.setdefault(reason, set())
            new = [label for label, why in self.failures.items() if why == reason and label not in said]
            if not new:
                continue
            said.update(new)
            functions = ", ".join(new)
            notices.say(
                f"nvml {self.name} {reason}: {functions}",
                logging.WARNING,
                "otel-aimon cannot read %s of %s (%s); what that measures is absent until it answers.%s",
                functions,
                self.name,
                reason,
                _REMEDIES.get(reason, ""),
            )
