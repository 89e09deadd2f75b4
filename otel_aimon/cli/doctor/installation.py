"""Versions, and how OpenTelemetry is started in this environment."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from otel_aimon.cli.doctor.findings import Part, Problem, Seen
from otel_aimon.cli.doctor.packages import (
    INSTRUMENTORS,
    EntryPoint,
    canonical,
    conflicts,
    entry_points,
    fits,
    installed,
    requirements,
)
from otel_aimon.cli.text import table
from otel_aimon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

US = "otel-aimon"
_LAUNCHER = "opentelemetry-instrument"
_ALSO_SHOWN = (
    "opentelemetry-api",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
)
_CORE = tuple(
    f"{name} "
    for name in (
        US,
        "opentelemetry-api",
        "opentelemetry-sdk",
        "opentelemetry-semantic-conventions",
        "opentelemetry-instrumentation",
        "opentelemetry-distro",
        "opentelemetry-configuration",
        "opentelemetry-proto",
        "opentelemetry-exporter-otlp",
        "opentelemetry-exporter-otlp-proto-common",
        "opentelemetry-exporter-otlp-proto-grpc",
        "opentelemetry-exporter-otlp-proto-http",
    )
)
"""How a conflict begins that stops all telemetry, not that of one instrumentation."""

_DISTRO, _CONFIGURATOR = "OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR"


@dataclass(frozen=True)
class Package:
    """A distribution that otel-aimon needs or can use.

    Attributes:
        name: Its name.
        version: The installed one, if any.
        required: What otel-aimon requires of it; empty for any version.
        extra: The extra of otel-aimon that brings it; None for those that are always needed.
        fits: Whether the version is one that is required; None when it is not installed.
    """

    name: str
    version: str | None
    required: str
    extra: str | None
    fits: bool | None


@dataclass(frozen=True)
class Installation:
    """This environment.

    Attributes:
        otel_aimon: Version.
        python: Version.
        executable: The interpreter.
        platform: Operating system and machine.
        packages: Those that otel-aimon needs or can use.
        conflicts: Requirements of OpenTelemetry's packages and ours that are not met.
        entry_points: Ours that are registered.
        launcher: ``opentelemetry-instrument`` as the shell would find it.
        launcher_beside: The one of this environment, if there is one.
        launcher_is_ours: Whether the one that the shell finds starts this environment's interpreter.
        distro: What sets the defaults of exporters, if anything.
        other_distros: More of them, which are not used.
        configurator: What sets up the SDK, if anything.
        other_configurators: More of them, which are not used.
    """

    otel_aimon: str
    python: str
    executable: str
    platform: str
    packages: tuple[Package, ...]
    conflicts: tuple[str, ...]
    entry_points: tuple[str, ...]
    launcher: str | None
    launcher_beside: str | None
    launcher_is_ours: bool
    distro: str | None
    other_distros: tuple[str, ...]
    configurator: str | None
    other_configurators: tuple[str, ...]

    @property
    def foreign_distro(self) -> str | None:
        """The distro or configurator, where it is not OpenTelemetry's own: what it sets up is not known here."""
        used = (each for each in (self.distro, self.configurator) if each is not None)
        return next((each for each in used if "(opentelemetry-distro " not in each), None)


def look(seen: Seen) -> Installation:
    """Read the metadata of what is installed; nothing is imported."""
    versions = installed()
    launcher = shutil.which(_LAUNCHER, path=seen.environ.get("PATH"))
    beside = shutil.which(_LAUNCHER, path=str(Path(sys.executable).parent))
    distros = _chosen(entry_points("opentelemetry_distro"), seen.environ.get(_DISTRO))
    configurators = _chosen(entry_points("opentelemetry_configurator"), seen.environ.get(_CONFIGURATOR))
    telemetry = sorted(name for name in versions if name.startswith("opentelemetry-"))
    return Installation(
        otel_aimon=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=f"{platform.system()} {platform.machine()}",
        packages=tuple(_packages(versions)),
        conflicts=tuple(conflicts([US, *telemetry], versions)),
        entry_points=tuple(
            point.name for point in entry_points(INSTRUMENTORS) if canonical(point.distribution) == US
        ),
        launcher=launcher,
        launcher_beside=beside,
        launcher_is_ours=launcher is not None and _starts_this_interpreter(Path(launcher)),
        distro=distros[0],
        other_distros=distros[1],
        configurator=configurators[0],
        other_configurators=configurators[1],
    )


def _packages(versions: dict[str, str]) -> Iterator[Package]:
    shown: set[str] = set()
    for requirement in requirements(US):
        name = canonical(requirement.name)
        if name in shown:
            continue
        version = versions.get(name)
        # Frameworks have a section of their own; of the extras, those that bring something to OpenTelemetry.
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", str(requirement.marker or ""))
        if extra is not None and extra.group(1) == "demo":
            continue
        shown.add(name)
        yield Package(
            name,
            version,
            str(requirement.specifier),
            extra.group(1) if extra is not None else None,
            None if version is None else fits(requirement, version),
        )
    for name in _ALSO_SHOWN:
        if name not in shown and name in versions:
            yield Package(name, versions[name], "", None, fits=True)


def _chosen(points: list[EntryPoint], name: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The one that OpenTelemetry takes: the first, or the first that has the name; and the others."""
    labels = [f"{point.name} ({point.distribution} {point.version})" for point in points]
    place = next((place for place, point in enumerate(points) if name is None or point.name == name), None)
    if place is None:
        return None, tuple(labels)
    return labels.pop(place), tuple(labels)


def _starts_this_interpreter(script: Path) -> bool:
    """Whether a console script belongs to this environment, by where it is or by its first lines."""
    scripts = {Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))}
    if any(_same_file(script.parent, folder) for folder in scripts):
        return True
    try:
        head = script.read_bytes()[:2048].decode("utf-8", "replace")
    except OSError:
        return False
    # Long paths stand in a line for the shell: #!/bin/sh, then '''exec' /path/to/python "$0" "$@".
    found = re.match(r"#!\s*(?:/bin/sh\s+'''exec'\s+)?\"?([^\"\n ]+)", head)
    # Interpreters of environments are links to one file; their folders are not.
    return found is not None and _same_file(Path(found.group(1)).parent, Path(sys.executable).parent)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def tell(found: Installation) -> list[str]:
    """Versions in a table, then what starts OpenTelemetry."""
    rows: list[tuple[str, ...]] = [("package", "installed", "required", "")]
    for package in found.packages:
        note = f'optional: pip install "otel-aimon[{package.extra}]"' if package.extra else "MISSING"
        verdict = {True: "", False: "DOES NOT FIT", None: note}[package.fits]
        rows.append((package.name, package.version or "-", package.required or "any", verdict))
    launcher = found.launcher or "not on PATH"
    if found.launcher and not found.launcher_is_ours:
        launcher += " (of ANOTHER environment)"
    return [
        f"otel-aimon {found.otel_aimon}, Python {found.python}, {found.platform}",
        f"interpreter   {found.executable}",
        f"launcher      {launcher}",
        f"distro        {found.distro or 'NONE'}",
        f"configurator  {found.configurator or 'NONE'}",
        "",
        *table(rows, numbers_from=4),
    ]


PART = Part("installation", "Installation", look, tell)

# --- checks ------------------------------------------------------------------------------------


def sdk_is_configured(seen: Seen) -> Iterator[Problem]:
    """Something must set up the SDK: otel-aimon leaves that to OpenTelemetry."""
    found = seen.installation
    for kind, chosen, others, variable in (
        ("configurator", found.configurator, found.other_configurators, _CONFIGURATOR),
        ("distro", found.distro, found.other_distros, _DISTRO),
    ):
        named = seen.environ.get(variable)
        if chosen is None and named is not None:
            yield Problem(
                "error",
                f"{variable}={named} names no {kind} that is installed.",
                f"Unset {variable}, or install what it names. Installed: {', '.join(others) or 'none'}.",
            )
        elif chosen is None:
            yield Problem(
                "error",
                f"No OpenTelemetry {kind} is installed, so opentelemetry-instrument sets up no exporters and all "
                "telemetry is dropped.",
                "pip install opentelemetry-distro",
            )
        elif others and named is None:
            yield Problem(
                "warning",
                f"Several {kind}s are installed; {chosen} is used because it was found first, not {', '.join(others)}.",
                f"Set {variable} to the name of the one that you want, or uninstall the others.",
            )


def versions_fit(seen: Seen) -> Iterator[Problem]:
    """Versions of OpenTelemetry's packages that do not belong together fail in odd ways."""
    for conflict in seen.installation.conflicts:
        yield Problem(
            "error" if conflict.startswith(_CORE) else "warning",
            f"Versions do not fit: {conflict}.",
            "Install versions of one release, for example: "
            "pip install --upgrade opentelemetry-distro opentelemetry-exporter-otlp otel-aimon",
        )


def entry_points_are_registered(seen: Seen) -> Iterator[Problem]:
    """A source tree on the path can be imported, and is not found by opentelemetry-instrument."""
    if not seen.installation.entry_points:
        yield Problem(
            "error",
            "otel-aimon can be imported but is not installed: its entry points are missing, so "
            "opentelemetry-instrument does not load it.",
            "pip install otel-aimon (or pip install --editable . in a source tree)",
        )


def launcher_is_of_this_environment(seen: Seen) -> Iterator[Problem]:
    """The launcher of another environment instruments that one."""
    found = seen.installation
    if found.launcher_is_ours:
        return
    remedy = (
        f"Activate this environment, or start the service with {found.launcher_beside}"
        if found.launcher_beside
        else f"{found.executable} -m pip install --force-reinstall opentelemetry-instrumentation"
    )
    if found.launcher is None:
        what = f"{_LAUNCHER} is not on PATH."
    else:
        what = f"{_LAUNCHER} on PATH is {found.launcher}, which belongs to another environment than this command."
    yield Problem("warning", what, remedy)


CHECKS = (sdk_is_configured, versions_fit, entry_points_are_registered, launcher_is_of_this_environment)
