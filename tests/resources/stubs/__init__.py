"""Libraries of drivers that answer what a test wants."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
VALUES_VARIABLE = "NVML_STUB_FILE"

_SOURCE = Path(__file__).with_name("nvml.c")
_writes = itertools.count(time.time_ns(), 1000)


def can_build() -> bool:
    """Whether there is a compiler. In CI there must be one."""
    found = shutil.which("cc") is not None
    assert found or os.environ.get("CI") != "true", "CI has no C compiler"
    return found


def build_nvml(directory: Path, without: Iterable[str] = (), soname: str = SONAME) -> Path:
    """Compile ``nvml.c``, unless it was compiled there before.

    Args:
        directory: Where the library is put; a process that starts with it as ``LD_LIBRARY_PATH`` finds it.
        without: Functions that it does not have, as an older driver.
        soname: Under which the loader knows it once it is loaded.
    """
    hidden = sorted(without)
    folder = directory / ("nvml-" + "-".join(hidden))[:80]
    library = folder / SONAME
    if library.exists():
        return library
    folder.mkdir(parents=True)
    symbols = folder / "symbols"
    local = "".join(f" {name};" for name in hidden)
    symbols.write_text("{ global: *;" + (f" local:{local}" if local else "") + " };")
    subprocess.run(
        [
            *("cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"),
            *(f"-Wl,-soname,{soname}", f"-Wl,--version-script={symbols}", "-o", str(library), str(_SOURCE)),
        ],
        check=True,
    )
    return library


class NvmlValues:
    """The file with the answers of the library; see ``nvml.c`` for its keys.

    Args:
        path: Of the file, which is written at once.

    Attributes:
        path: The same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[tuple[str, str], str] = {}
        self._write()

    def set(self, device: int | str, key: str, value: object) -> None:
        """Let ``device`` (a number, ``0/1`` or ``*``) answer ``value``."""
        self._values[str(device), key] = str(value)
        self._write()

    def unset(self, device: int | str, key: str) -> None:
        """Let ``device`` answer as if nothing had been said."""
        self._values.pop((str(device), key), None)
        self._write()

    def clear(self) -> None:
        """Let all answer as if nothing had been said."""
        self._values.clear()
        self._write()

    def _write(self) -> None:
        text = "".join(f"{device} {key} {value}\n" for (device, key), value in self._values.items())
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(text)
        # The library looks at the time to see that the file is another one.
        moment = next(_writes)
        os.utime(new, ns=(moment, moment))
        new.replace(self.path)
