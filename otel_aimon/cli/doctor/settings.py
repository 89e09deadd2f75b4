"""Settings of otel-aimon, where each comes from, and what OpenTelemetry's own switches do to us."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.metadata
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon.cli.doctor.findings import Part, Problem, Seen
from otel_aimon.cli.doctor.packages import INSTRUMENTORS, entry_points
from otel_aimon.cli.text import cut, table
from otel_aimon.config import (
    ENV_PREFIX,
    FILE_SECTION,
    Settings,
    _read_sections,
    declarative_sections,
    enabled_by_file,
)
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS
from otel_aimon.instrumentation import loader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DISABLED_VARIABLE = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_CONFIG_FILE = "OTEL_CONFIG_FILE"
_SDK_DISABLED = "OTEL_SDK_DISABLED"
_CLOSE = 0.9


@dataclass(frozen=True)
class Setting:
    """One setting of otel-aimon.

    Attributes:
        name: Its name.
        value: What holds.
        source: Where it comes from: ``default``, ``environment`` or ``declarative file``.
    """

    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class SeenSettings:
    """What is set.

    Attributes:
        enabled: Whether otel-aimon does anything at all.
        settings: All of them.
        warnings: What otel-aimon says when it starts with these settings.
        sdk_disabled: ``OTEL_SDK_DISABLED`` as it is set, if it is.
        config_file: ``OTEL_CONFIG_FILE`` as it is set, if it is.
        config_file_sections: Names under ``instrumentation/development: python:`` in that file; None when there
            is no file or it cannot be used.
        disabled_instrumentations: Names in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``.
        unknown_variables: Variables that are nearly one of OpenTelemetry's, with that one.
    """

    enabled: bool
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]
    sdk_disabled: str | None
    config_file: str | None
    config_file_sections: tuple[str, ...] | None
    disabled_instrumentations: tuple[str, ...]
    unknown_variables: tuple[tuple[str, str], ...]


def look(seen: Seen) -> SeenSettings:
    """Resolve the settings as the runtime does."""
    with captured() as said:
        _read_sections.cache_clear()  # What is wrong with the file is said when it is read.
        sections = declarative_sections(seen.environ)
        own = sections.get(FILE_SECTION, {})
        resolved = Settings.resolve(None, own, seen.environ)
        loader.warn_unknown(resolved.frameworks)
    path = seen.environ.get(_CONFIG_FILE)
    return SeenSettings(
        enabled=resolved.enabled,
        settings=tuple(
            Setting(spec.name, getattr(resolved, spec.name), _source(spec, own, seen.environ))
            for spec in fields(Settings)
        ),
        warnings=tuple(said),
        sdk_disabled=seen.environ.get(_SDK_DISABLED),
        config_file=path,
        config_file_sections=tuple(sections) if path and _usable(path, said) else None,
        disabled_instrumentations=tuple(
            name.strip() for name in seen.environ.get(DISABLED_VARIABLE, "").split(",") if name.strip()
        ),
        unknown_variables=tuple(_unknown_variables(seen.environ)),
    )


def resolved(seen: Seen) -> Settings:
    """The settings that hold."""
    return Settings(**{setting.name: setting.value for setting in seen.settings.settings})


def why_nothing(seen: Seen) -> str | None:
    """The switch that stops otel-aimon as a whole, if one does."""
    if (seen.settings.sdk_disabled or "").strip().lower() == "true":
        return f"{_SDK_DISABLED} is true"
    if not seen.settings.enabled:
        return "otel-aimon is switched off by its setting enabled"
    if "*" in seen.settings.disabled_instrumentations:
        return f"{DISABLED_VARIABLE} is *"
    return None


def disabled(seen: Seen, entry_point: str) -> str | None:
    """What disables an instrumentation, if anything does.

    Args:
        seen: With the settings.
        entry_point: Its name.
    """
    names = seen.settings.disabled_instrumentations
    if entry_point in names or "*" in names:
        return DISABLED_VARIABLE
    with captured():
        sections = declarative_sections(seen.environ)
        if entry_point in sections and not enabled_by_file(entry_point, seen.environ):
            return f"enabled: false in the file of {_CONFIG_FILE}"
    return None


@contextlib.contextmanager
def captured() -> Iterator[list[str]]:
    """What otel-aimon warns of while this lasts, instead of its being shown."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage().removeprefix("otel-aimon: "))

    logger, handler = logging.getLogger("otel_aimon"), Handler(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)


def _source(spec: Any, own: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    variable = environ.get(ENV_PREFIX + spec.name.upper(), "").strip() or None
    for source, raw in (("declarative file", own.get(spec.name)), ("environment", variable)):
        if raw is None:
            continue
        # A value that is refused is warned of, and the next source has its turn.
        with contextlib.suppress(Exception):
            spec.metadata["accepts"].parse(raw)
            return source
    return "default"


def _usable(path: str, said: list[str]) -> bool:
    return Path(path).is_file() and not any(f"{_CONFIG_FILE}=" in each for each in said)


@functools.lru_cache(maxsize=1)
def _known_variables() -> frozenset[str]:
    found: set[str] = set()
    for point in importlib.metadata.entry_points(group="opentelemetry_environment_variables"):
        with contextlib.suppress(Exception):
            found.update(name for name in dir(point.load()) if name.startswith("OTEL_"))
    return frozenset(found)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = _known_variables()
    for name in sorted(environ):
        if name in known or not name.upper().startswith("OTEL") or name.startswith(ENV_PREFIX):
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_CLOSE)
        if close:
            yield name, close[0]


def tell(found: SeenSettings) -> list[str]:
    """What is not the default, and the switches that are set."""
    changed = [setting for setting in found.settings if setting.source != "default"]
    rows = [
        ("setting", "value", "from"),
        *((each.name, cut(_shown(each.value), 60), each.source) for each in changed),
    ]
    lines = table(rows, numbers_from=3) if changed else ["all settings of otel-aimon have their defaults"]
    for name, value in (
        (_SDK_DISABLED, found.sdk_disabled),
        (_CONFIG_FILE, found.config_file),
        (DISABLED_VARIABLE, ",".join(found.disabled_instrumentations) or None),
    ):
        if value is not None:
            lines.append(f"{name}={value}")
    if found.config_file_sections is not None:
        lines.append(f"sections for Python in that file: {', '.join(found.config_file_sections) or 'none'}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


PART = Part("settings", "Settings", look, tell)

# --- checks ------------------------------------------------------------------------------------


def settings_are_accepted(seen: Seen) -> Iterator[Problem]:
    """A setting that is misspelt or refused does nothing."""
    for warning in seen.settings.warnings:
        severity = "error" if f"{_CONFIG_FILE}=" in warning else "warning"
        yield Problem(
            "error" if severity == "error" else "warning",
            warning,
            "Correct the file: without it OpenTelemetry sets up nothing."
            if severity == "error"
            else "Correct or remove it; the docs list all settings.",
        )


def nothing_is_switched_off(seen: Seen) -> Iterator[Problem]:
    """The switches that stop all telemetry."""
    found = seen.settings
    switch = (found.sdk_disabled or "").strip().lower()
    if switch == "true":
        yield Problem(
            "error",
            f"{_SDK_DISABLED} is true: OpenTelemetry and otel-aimon do nothing.",
            f"Unset {_SDK_DISABLED}.",
        )
    elif switch not in {"", "false"}:
        yield Problem(
            "warning",
            f"{_SDK_DISABLED}={found.sdk_disabled} is neither true nor false and counts as false.",
            f"Set {_SDK_DISABLED} to true, or unset it.",
        )
    if not found.enabled:
        source = next(each.source for each in found.settings if each.name == "enabled")
        yield Problem(
            "error",
            f"otel-aimon is switched off by its setting enabled ({source}).",
            f"Set {ENV_PREFIX}ENABLED=true, or remove the setting.",
        )
    if "*" in found.disabled_instrumentations:
        yield Problem(
            "error",
            f"{DISABLED_VARIABLE} is *: no instrumentation is loaded, ours included.",
            f"Name single instrumentations in {DISABLED_VARIABLE}, or unset it.",
        )


def disabled_names_exist(seen: Seen) -> Iterator[Problem]:
    """``torch`` disables nothing; the entry point is called ``aimon_torch``."""
    known = {point.name for point in entry_points(INSTRUMENTORS)}
    for name in seen.settings.disabled_instrumentations:
        if name in known or name == "*":
            continue
        ours = FRAMEWORK_INSTRUMENTORS.get(name)
        close = [ours.entry_point] if ours else difflib.get_close_matches(name, known, n=1)
        yield Problem(
            "warning",
            f"{DISABLED_VARIABLE} names {name}, which no installed instrumentation is called.",
            f"Did you mean {close[0]}?" if close else "Remove the name.",
        )


def variables_are_spelt_right(seen: Seen) -> Iterator[Problem]:
    """OTEL_EXPORTER_OLTP_ENDPOINT is read by nobody."""
    for name, close in seen.settings.unknown_variables:
        yield Problem(
            "warning", f"{name} is read by nothing that is installed here.", f"Did you mean {close}?"
        )


CHECKS = (settings_are_accepted, nothing_is_switched_off, disabled_names_exist, variables_are_spelt_right)
