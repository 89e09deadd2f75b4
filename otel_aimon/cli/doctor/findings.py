"""What an examination has seen, part by part, and the problems that checks find in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_aimon.cli.doctor.devices import Resources
    from otel_aimon.cli.doctor.exporters import Exporters
    from otel_aimon.cli.doctor.frameworks import SeenFramework
    from otel_aimon.cli.doctor.installation import Installation
    from otel_aimon.cli.doctor.neighbours import Neighbour
    from otel_aimon.cli.doctor.settings import SeenSettings
    from otel_aimon.cli.doctor.signals import Signals

Severity = Literal["error", "warning", "info"]
"""An error: telemetry is lost or wrong. A warning: probably so. An info: worth to know."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: How bad it is.
        what: What is wrong, in one sentence.
        remedy: What to do about it.
        check: The check that found it.
    """

    severity: Severity
    what: str
    remedy: str
    check: str = ""


class NotSeenError(Exception):
    """A part is asked for that failed, or that has its turn later."""


@dataclass(repr=False)
class Seen:
    """What has been seen so far. A part that failed is missing.

    Attributes:
        environ: The environment variables.
        offline: Whether no endpoint may be connected to.
        installation: Versions, and how OpenTelemetry is started.
        settings: Those of otel-aimon.
        frameworks: Those of the registry.
        resources: Devices, limits and the sources that read them.
        exporters: Where each signal goes.
        neighbours: Other instrumentations.
        signals: What will be emitted.
    """

    environ: Mapping[str, str]
    offline: bool = False
    installation: Installation = field(init=False)
    settings: SeenSettings = field(init=False)
    frameworks: tuple[SeenFramework, ...] = field(init=False)
    resources: Resources = field(init=False)
    exporters: Exporters = field(init=False)
    neighbours: tuple[Neighbour, ...] = field(init=False)
    signals: Signals = field(init=False)

    def __getattr__(self, name: str) -> Any:
        raise NotSeenError(name)


@dataclass(frozen=True)
class Part:
    """One section of the document.

    Attributes:
        key: Its field in :class:`Seen` and its name in the JSON document.
        title: Its heading in the text.
        look: Finds its facts: dataclasses that hold nothing but plain data.
        tell: Says them in lines.
    """

    key: str
    title: str
    look: Callable[[Seen], Any]
    tell: Callable[[Any], list[str]]


Check = Callable[[Seen], "Iterator[Problem]"]
"""Looks at what was seen and yields what is wrong; its docstring says why that matters."""


def where(error: Exception) -> str:
    """The class of an error and the place where it was raised; its message might hold a secret."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} in {trace.tb_frame.f_globals.get('__name__')}, line {trace.tb_lineno}"


_MASK = "***"


def masked(url: str) -> str:
    """``url`` without the credentials that it may hold: user and password, and what follows ``?``."""
    parts = urlsplit(url)
    if parts.scheme and parts.netloc:
        host = parts.netloc.rpartition("@")[2]
        user = f"{_MASK}@" if "@" in parts.netloc else ""
        query = f"?{_MASK}" if parts.query or parts.fragment else ""
        return f"{parts.scheme}://{user}{host}{parts.path}{query}"
    return re.sub(r"[?#].*", f"?{_MASK}", re.sub(r".*@", f"{_MASK}@", url))
