"""Records which versions of each framework the tests passed with, for docs/compatibility.md."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

from otel_aimon.instrumentation.registry import FRAMEWORKS

PREFIXES = ("tests/frameworks/test_", "tests/e2e/test_")
"""A server is another process, so that all of its tests may be end to end."""


class Results:
    """The outcomes of the tests of each framework; a test module begins with the framework's name."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}

    def add(self, nodeid: str, outcome: str) -> None:
        """Count the outcome of one test."""
        framework = framework_of(nodeid)
        if framework is not None:
            self.outcomes.setdefault(framework, Counter())[outcome] += 1

    def record(self, file: Path) -> None:
        """Put them into the file; what it has of other versions stays."""
        rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        by_key = {(row["framework"], row["version"], row["python"]): row for row in rows}
        python = ".".join(platform.python_version_tuple()[:2])
        for framework, counts in self.outcomes.items():
            version = version_of(framework)
            if version is not None and counts["passed"] + counts["failed"]:
                by_key[framework, version, python] = {
                    "framework": framework,
                    "version": version,
                    "python": python,
                    "passed": counts["passed"],
                    "failed": counts["failed"],
                }
        lines = ",\n".join(json.dumps(row) for _, row in sorted(by_key.items()))
        file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def framework_of(nodeid: str) -> str | None:
    """The framework that a test is about; the longest name that fits."""
    prefix = next(filter(nodeid.startswith, PREFIXES), None)
    if prefix is None:
        return None
    module = nodeid.removeprefix(prefix)
    names = [each.name for each in FRAMEWORKS if module.startswith((f"{each.name}.", f"{each.name}_"))]
    return max(names, key=len, default=None)


def version_of(framework: str) -> str | None:
    """That of the module which was imported, as distributions of one module have several names; else of the distribution."""
    found = next(each for each in FRAMEWORKS if each.name == framework)
    version = getattr(sys.modules.get(found.hooks[0][0].split(".")[0]), "__version__", None)
    if version is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(found.distribution)
    return None if version is None else str(version).split("+")[0]
