"""TensorRT's real Python bindings, over libraries that compute nothing: its own need a GPU, and are gigabytes."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

DISTRIBUTION = "tensorrt-cu12-bindings"
SOURCE = Path(__file__).with_suffix(".c")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def load(folder: Path) -> Any:
    """The bindings, with the libraries that they look for built into ``folder`` and loaded under their names."""
    major = version(DISTRIBUTION).split(".")[0]
    places = ["-DPLACES_11"] if int(major) >= 11 else []
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            *places,
            f"-Wl,-soname,{name}",
            str(SOURCE),
            "-o",
            str(folder / name),
        ]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_bindings

    return tensorrt_bindings


def make_context(bindings: Any) -> Any:
    """An execution context of an engine called ``tiny``, whose input ``rows`` has four rows."""
    runtime = bindings.Runtime(bindings.Logger(bindings.Logger.ERROR))
    return runtime.deserialize_cuda_engine(b"plan").create_execution_context()
