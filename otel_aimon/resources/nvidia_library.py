"""NVML, as ``pynvml`` (nvidia-ml-py) wraps it: started once, its errors by name, its absence explained."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.source import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("otel_aimon")

NO_DRIVER_RETRY = 300.0
"""Seconds until a machine without a driver is asked again."""

UNSUPPORTED = frozenset({"NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NOT_FOUND"})
"""This device or driver has no such thing, and will not have it until NVML is started anew."""

LOST = frozenset({"GPU_IS_LOST", "GPU_NOT_FOUND", "RESET_REQUIRED"})
"""The GPU is gone, or of no use until it is reset."""

STOPPED = frozenset({"UNINITIALIZED", "DRIVER_NOT_LOADED"})
"""NVML must be started anew: somebody has shut it down, or the driver was reloaded."""

_ABSENT = frozenset({"LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "GPU_NOT_FOUND"})

_NEWER_REASONS = {28: "GPU_NOT_FOUND"}
"""Errors that matter here and that older versions of pynvml do not know."""

_REMEDIES = {
    "LIBRARY_NOT_FOUND": "libnvidia-ml.so.1 is missing: in a container, NVIDIA_DRIVER_CAPABILITIES must "
    "have utility; on a host, install the driver's libraries.",
    "DRIVER_NOT_LOADED": "Load the kernel's module: modprobe nvidia.",
    "LIB_RM_VERSION_MISMATCH": "The driver was updated and its kernel module was not: reboot, or reload "
    "the module; restart containers.",
    "NO_PERMISSION": "This process may not use /dev/nvidiactl and /dev/nvidia*: see their permissions and "
    "the container's devices.",
    "FUNCTION_NOT_FOUND": "The driver is too old: update it.",
}
_DEFAULT_REMEDY = "Check the driver with nvidia-smi."


class Failure(Exception):  # noqa: N818 - the everyday case, not an error
    """A call of NVML had no answer.

    Args:
        function: Which.
        reason: NVML's name of the error, such as ``NOT_SUPPORTED``.
    """

    def __init__(self, function: str, reason: str) -> None:
        super().__init__(f"{function}: {reason}")
        self.function = function
        self.reason = reason


class RestartNeeded(Exception):  # noqa: N818 - as above
    """NVML must be started anew, before the reading is taken again."""


class Nvml:
    """NVML, started.

    Args:
        module: ``pynvml``.

    Attributes:
        module: The same.
        fresh: It was started for this reading.
        may_restart: It may be started anew for a single function.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.fresh = True
        self.may_restart = False
        self._reasons: dict[int, str] = _NEWER_REASONS | {
            code: name.removeprefix("NVML_ERROR_")
            for name, code in vars(module).items()
            if name.startswith("NVML_ERROR_") and isinstance(code, int)
        }

    def reason(self, code: int) -> str:
        """NVML's name of an error."""
        # Not NVML's own text: asking for it is one more call that may hang.
        return self._reasons.get(code, f"error {code}")

    def constant(self, name: str) -> Any:
        """A constant of pynvml; None in a version that does not have it."""
        return getattr(self.module, name, None)

    def call(self, function: str, *args: Any) -> Any:
        """Call a function of pynvml.

        Raises:
            Failure: It had no answer, or this version of pynvml or of the driver has no such function.
        """
        try:
            bound = getattr(self.module, function)
        except AttributeError:
            raise Failure(function, "FUNCTION_NOT_FOUND") from None
        try:
            return bound(*args)
        except self.module.NVMLError as error:
            raise Failure(function, self.reason(error.value)) from None
        except Exception as error:
            reason = type(error).__name__
            # For some functions pynvml says it so.
            missing = reason == "NVMLLibraryMismatchError"
            raise Failure(function, "FUNCTION_NOT_FOUND" if missing else reason) from error

    def must_restart(self, reason: str, *, certain: bool = False) -> bool:
        """Whether NVML is to be started anew for this error.

        Args:
            reason: NVML's name of the error.
            certain: What said so needs nothing but NVML itself.
        """
        return reason in STOPPED and not self.fresh and (certain or self.may_restart)

    def shut_down(self) -> None:
        """Give NVML back. Others in this process that have started it keep it."""
        try:
            self.call("nvmlShutdown")
        except Failure as failure:
            logger.debug("otel-aimon: %s.", failure)


def start_nvml(root: Path) -> Nvml:
    """Import pynvml and start NVML.

    Args:
        root: Of the file system in which the driver is looked for.

    Raises:
        UnavailableError: There is no driver, or it does not work.
    """
    try:
        module = importlib.import_module("pynvml")
    except ImportError as error:
        raise _unavailable("pynvml cannot be imported", "Install nvidia-ml-py.", root) from error
    nvml = Nvml(module)
    try:
        nvml.call("nvmlInit")
    except Failure as failure:
        remedy = _REMEDIES.get(failure.reason, _DEFAULT_REMEDY)
        if failure.reason in _ABSENT:
            raise _unavailable(f"NVML does not start ({failure.reason})", remedy, root) from failure
        raise UnavailableError(
            f"the NVIDIA GPUs are not measured: NVML does not start ({failure.reason}). {remedy}"
        ) from failure
    return nvml


def _unavailable(why: str, remedy: str, root: Path) -> UnavailableError:
    if hardware_present(root):
        return UnavailableError(f"the NVIDIA GPUs are not measured: {why}. {remedy}")
    return UnavailableError(
        f"there is no NVIDIA driver here: {why}.", level=logging.DEBUG, retry=NO_DRIVER_RETRY
    )


def hardware_present(root: Path) -> bool:
    """Whether the kernel's driver is loaded, or its devices were given to this container."""
    return any((root / path).exists() for path in ("proc/driver/nvidia/version", "dev/nvidiactl"))


def unlock_after_fork() -> None:
    """Replace pynvml's lock: a thread of the parent that does not exist here may have held it."""
    module: Any = sys.modules.get("pynvml")
    if module is not None and hasattr(module, "libLoadLock"):
        module.libLoadLock = threading.Lock()
