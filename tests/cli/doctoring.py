"""Examinations of environments that the tests make up."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otel_aimon.cli import doctor
from otel_aimon.cli.doctor.findings import Check, Part, Problem, Seen

QUICK: tuple[Part, ...] = tuple(part for part in doctor.PARTS if part.key not in {"resources", "signals"})
"""Those that read metadata and variables only."""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without OpenTelemetry's variables, and with these."""
    foreign = (
        "OTEL_",
        "CUDA_",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
        "no_proxy",
    )
    return {**{key: value for key, value in os.environ.items() if not key.startswith(foreign)}, **variables}


def seen(variables: Mapping[str, str], parts: Sequence[Part] = QUICK, **facts: Any) -> Seen:
    """What is seen with these variables; ``facts`` stand for parts that are not looked at."""
    found = Seen(environment(**variables), offline=True)
    for key, value in facts.items():
        setattr(found, key, value)
    document = doctor.examine(found, [part for part in parts if part.key not in facts], ())
    assert [problem for problem in document.problems if problem.check == "doctor"] == []
    return found


def problems(checks: Sequence[Check], found: Seen) -> list[tuple[str, str, str]]:
    """Severity, check and sentence of what the checks find."""
    document = doctor.examine(found, (), checks)
    assert all(problem.remedy.strip() for problem in document.problems)
    return [(each.severity, each.check, each.what) for each in document.problems]


def remedies(checks: Sequence[Check], found: Seen) -> list[str]:
    document = doctor.examine(found, (), checks)
    return [each.remedy for each in document.problems]


def shape(data: Any) -> Any:
    """Keys and types: what programs rely on. Of a list, the one shape that all its items have in common."""
    if isinstance(data, dict):
        return {key: shape(value) for key, value in data.items()}
    if isinstance(data, list):
        shapes = [shape(item) for item in data]
        return [_merged(shapes)] if shapes else []
    return "None" if data is None else type(data).__name__


def _merged(shapes: list[Any]) -> Any:
    if all(isinstance(each, dict) for each in shapes):
        assert len({tuple(each) for each in shapes}) == 1, "items differ in their keys"
        return {key: _merged([each[key] for each in shapes]) for key in shapes[0]}
    if all(isinstance(each, list) for each in shapes):
        items = [item for each in shapes for item in each]
        return [_merged(items)] if items else []
    names = sorted(
        {name for each in shapes for name in str(each).split(" | ")}, key=lambda name: name == "None"
    )
    return shapes[0] if len(names) == 1 else " | ".join(names)


def install(
    folder: Path, name: str, version: str = "1.0", entry_points: str = "", requires: Sequence[str] = ()
) -> None:
    """Put the metadata of a distribution into a folder that is, or will be, on the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires)]) + "\n"
    )
    (info / "entry_points.txt").write_text(entry_points)


@contextmanager
def listener() -> Iterator[int]:
    """A port on which something listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


__all__ = [
    "QUICK",
    "Problem",
    "closed_port",
    "environment",
    "install",
    "listener",
    "problems",
    "remedies",
    "seen",
    "shape",
]
