"""The frameworks of the registry: which are installed, and whether each will be instrumented."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from otel_aimon.cli.doctor.findings import Part, Problem, Seen
from otel_aimon.cli.doctor.packages import canonical, installed
from otel_aimon.cli.doctor.settings import disabled, resolved, why_nothing
from otel_aimon.cli.text import wrapped_table
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS
from otel_aimon.instrumentation.registry import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_aimon.instrumentation.registry import Framework


@dataclass(frozen=True)
class SeenFramework:
    """One framework.

    Attributes:
        name: Value of ``aimon.framework``.
        title: The name that its users know.
        distributions: What has it installed; several ones overwrite each other's files.
        version: Of the first of them; None when it is not installed.
        oldest: Oldest version that is tested.
        entry_point: Its instrumentation.
        instrumented: Whether its requests will be recorded once the application imports it.
        why_not: Why not.
        checked: What was run of it, where it does not run under the tests as it does for its users; else empty.
    """

    name: str
    title: str
    distributions: tuple[str, ...]
    version: str | None
    oldest: str
    entry_point: str
    instrumented: bool
    why_not: str | None
    checked: str = ""


def look(seen: Seen) -> tuple[SeenFramework, ...]:
    """Look for the frameworks without importing them."""
    versions = installed()
    return tuple(_seen(framework, versions, seen) for framework in FRAMEWORKS)


def _seen(framework: Framework, versions: dict[str, str], seen: Seen) -> SeenFramework:
    module = framework.hooks[0][0].partition(".")[0]
    found = _distributions(framework, module, versions) if _there(module) else ()
    version = versions.get(found[0], "unknown") if found else "unknown" if _there(module) else None
    entry_point = FRAMEWORK_INSTRUMENTORS[framework.name].entry_point
    why_not = "not installed" if version is None else _why_not(framework.name, entry_point, seen)
    return SeenFramework(
        framework.name,
        framework.title,
        found,
        version,
        framework.oldest,
        entry_point,
        why_not is None,
        why_not,
        framework.checked,
    )


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _distributions(framework: Framework, module: str, versions: dict[str, str]) -> tuple[str, ...]:
    """The usual one, its variants (``onnxruntime-gpu``), or else whatever has the module's files."""
    usual = canonical(framework.distribution)
    variants = [
        name for name in versions if name == usual or (name.startswith(f"{usual}-") and name in _VARIANTS)
    ]
    if variants:
        return tuple(sorted(variants))
    # Reads the list of files of everything that is installed.
    return tuple(
        sorted({canonical(name) for name in importlib.metadata.packages_distributions().get(module, ())})
    )


_VARIANTS = frozenset(
    f"onnxruntime-{variant}"
    for variant in ("gpu", "directml", "openvino", "rocm", "migraphx", "qnn", "silicon", "training", "cann")
) | {"xgboost-cpu"}
"""Distributions that hold the same module as another one."""


def _why_not(name: str, entry_point: str, seen: Seen) -> str | None:
    if (nothing := why_nothing(seen)) is not None:
        return nothing
    if (by := disabled(seen, entry_point)) is not None:
        return f"disabled by {by}"
    chosen = resolved(seen).frameworks
    if chosen and name not in chosen:
        return "not among the setting frameworks"
    if entry_point not in seen.installation.entry_points:
        return "its entry point is not registered"
    return None


def tell(found: tuple[SeenFramework, ...]) -> list[str]:
    """One line per framework."""
    rows: list[tuple[str, ...]] = [("framework", "installed", "tested from", "entry point", "instrumented")]
    rows += [
        (
            each.title,
            each.version or "-",
            f"written to {each.oldest}" if each.checked else each.oldest,
            each.entry_point,
            "yes, when it is imported" if each.instrumented else f"no: {each.why_not}",
        )
        for each in found
    ]
    return wrapped_table(rows)


PART = Part("frameworks", "Frameworks", look, tell)

# --- checks ------------------------------------------------------------------------------------


def some_framework_is_instrumented(seen: Seen) -> Iterator[Problem]:
    """Without one there are no spans, unless the application records its inferences itself."""
    there = [each for each in seen.frameworks if each.version is not None]
    if not there:
        yield Problem(
            "warning",
            "None of the frameworks is installed in this environment.",
            "Run the doctor with the interpreter of the service; or record your own models with otel_aimon.monitor.",
        )
    elif why_nothing(seen) is None and not any(each.instrumented for each in there):
        reasons = "; ".join(f"{each.title}: {each.why_not}" for each in there)
        yield Problem(
            "error",
            f"No installed framework will be instrumented ({reasons}).",
            "Enable at least one of them.",
        )


def frameworks_are_enabled(seen: Seen) -> Iterator[Problem]:
    """One that is switched off on purpose is worth a line when its data is missed."""
    there = [each for each in seen.frameworks if each.version is not None]
    if any(each.instrumented for each in there):
        for each in there:
            if not each.instrumented:
                yield Problem(
                    "info",
                    f"{each.title} is installed and not instrumented: {each.why_not}.",
                    "Enable it if you miss it.",
                )


def versions_are_tested(seen: Seen) -> Iterator[Problem]:
    """What an old version does not have is left out, quietly."""
    for each in seen.frameworks:
        try:
            old = each.version is not None and Version(each.version) < Version(each.oldest)
        except InvalidVersion:
            continue
        if old:
            what = "to whose interface it is written" if each.checked else "that is tested"
            yield Problem(
                "warning",
                f"{each.title} {each.version} is older than {each.oldest}, the oldest version {what}.",
                f"Upgrade: pip install '{each.distributions[0]}>={each.oldest}'"
                if each.distributions
                else "Upgrade it.",
            )


def distributions_do_not_overwrite_each_other(seen: Seen) -> Iterator[Problem]:
    """With onnxruntime beside onnxruntime-gpu, whichever came last decides whether the GPU is used."""
    for each in seen.frameworks:
        if len(each.distributions) > 1:
            names = " and ".join(each.distributions)
            yield Problem(
                "warning",
                f"{names} hold the same module and overwrite each other's files; the GPU may be unused.",
                f"pip uninstall {' '.join(each.distributions)}, then install the one that you want.",
            )


CHECKS = (
    some_framework_is_instrumented,
    frameworks_are_enabled,
    versions_are_tested,
    distributions_do_not_overwrite_each_other,
)
