"""Distributions that are installed, and what they require of each other."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INSTRUMENTORS = "opentelemetry_instrumentor"
"""Group of entry points that ``opentelemetry-instrument`` loads."""


@dataclass(frozen=True)
class EntryPoint:
    """An entry point, and the distribution that has it."""

    name: str
    distribution: str
    version: str


def canonical(name: str) -> str:
    """A distribution's name in the one spelling that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Version by canonical name; of several with one name, the one that Python finds first."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name: str | None = distribution.metadata["Name"]
        if name:
            found.setdefault(canonical(name), distribution.version)
    return found


def version_of(name: str) -> str | None:
    """The installed version; None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group, in the order in which OpenTelemetry takes them."""
    return [
        EntryPoint(
            point.name,
            point.dist.metadata["Name"] if point.dist is not None else "",
            point.dist.version if point.dist is not None else "",
        )
        for point in importlib.metadata.entry_points(group=group)
    ]


def requirements(name: str) -> Iterator[Requirement]:
    """What a distribution requires, its extras included."""
    try:
        texts = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for text in texts:
        with contextlib.suppress(InvalidRequirement):
            yield Requirement(text)


def fits(requirement: Requirement, version: str) -> bool:
    """Whether a version is one that is required; builds (``+cu128``) and pre-releases count as theirs."""
    return requirement.specifier.contains(version, prereleases=True)


def conflicts(names: Iterable[str], versions: dict[str, str]) -> Iterator[str]:
    """Each requirement of ``names`` that is not met, in a sentence.

    Args:
        names: Distributions whose requirements are looked at, without their extras.
        versions: What is installed.
    """
    for name in names:
        for requirement in requirements(name):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = versions.get(canonical(requirement.name))
            needs = (
                f"{name} {versions.get(canonical(name), '')} needs {requirement.name}{requirement.specifier}"
            )
            if version is None:
                yield f"{needs}, which is not installed"
            elif not fits(requirement, version):
                yield f"{needs}, but {version} is installed"
