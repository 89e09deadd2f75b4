"""Finds ``amdsmi`` and the library under it, and imports it only where that can succeed.

Without ``libamd_smi.so`` an import of ``amdsmi`` prints to the application's stdout and fails with
a ``KeyError``; so the library is looked for first, at the places where ``amdsmi`` looks for it.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from otel_aimon.resources.source import UnavailableError

LIBRARY = "libamd_smi.so"

_HARDWARE = ("dev/kfd", "sys/class/kfd", "sys/module/amdgpu")
_ROCM = ("ROCM_HOME", "ROCM_PATH")
_SHARERS = ("torch", "vllm", "aiter")
"""Those who use amdsmi too; what it holds is shared by the whole process, without a count of users."""


def hardware_present(root: Path) -> bool:
    """Whether a driver of AMD GPUs is loaded.

    Args:
        root: Of the file system.
    """
    return any((root / path).exists() for path in _HARDWARE)


def load_amdsmi(root: Path) -> Any:
    """The module ``amdsmi``.

    Args:
        root: Of the file system in which the driver is looked for.

    Raises:
        UnavailableError: When there is no AMD GPU, no amdsmi or no library, or when they do not fit.
    """
    if "amdsmi" not in sys.modules:
        _expect(root)
    try:
        return importlib.import_module("amdsmi")
    except Exception as error:
        raise UnavailableError(
            f"the AMD GPUs are not measured: amdsmi cannot be imported ({type(error).__name__}: {error}). "
            f"Install the amdsmi whose version is that of the installed ROCm's {LIBRARY}."
        ) from error


def used_by_others() -> bool:
    """Whether somebody else in this process may use what ``amdsmi_shut_down`` would take away."""
    return any(name in sys.modules for name in _SHARERS)


def _expect(root: Path) -> None:
    present = hardware_present(root)
    if not present and not any(os.environ.get(name) for name in _ROCM):
        raise UnavailableError("there is no AMD GPU here.", level=logging.DEBUG)
    # A ROCm image without a GPU under it is nothing to tell anybody about.
    spec = find_spec("amdsmi")
    if spec is None:
        raise UnavailableError(
            "the driver of an AMD GPU is loaded, but amdsmi is not installed, so its metrics are absent: "
            "pip install otel-aimon[gpu-amd].",
            level=logging.INFO if present else logging.DEBUG,
        )
    if not _library_loads(Path(spec.origin or "").parent):
        raise UnavailableError(
            f"the AMD GPUs are not measured: {LIBRARY} cannot be loaded. Install amd-smi-lib of ROCm, and set "
            "ROCM_PATH where that is not under /opt/rocm.",
            level=logging.WARNING if present else logging.DEBUG,
        )


def _library_loads(package: Path) -> bool:
    loaded = _loaded_copies()
    for place in _places(package):
        if loaded and os.sep in place and Path(place).exists() and not _is_one_of(place, loaded):
            # Two copies in one process share their symbols and break each other.
            raise UnavailableError(
                f"the AMD GPUs are not measured: this process has loaded another {LIBRARY} than the one that amdsmi "
                "would load. Point ROCM_PATH at the ROCm that the framework brings.",
            )
        try:
            ctypes.CDLL(place)
        except OSError:
            continue
        return True
    return False


def _places(package: Path) -> list[str]:
    rocm = os.getenv("ROCM_HOME", os.getenv("ROCM_PATH"))
    first = [str(Path(rocm) / "lib" / LIBRARY)] if rocm else []
    default = Path(os.getenv("ROCM_PATH", "/opt/rocm")) / "lib" / LIBRARY
    return [*first, LIBRARY, str(package / LIBRARY), str(default)]


def _loaded_copies() -> set[str]:
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {line[line.index("/") :] for line in lines if LIBRARY in line and "/" in line}


def _is_one_of(place: str, copies: set[str]) -> bool:
    return any(Path(copy).exists() and Path(copy).samefile(place) for copy in copies)
