"""``otel-aimon doctor``: what is seen here, what will be emitted, and what is wrong."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any

from otel_aimon.cli import show
from otel_aimon.cli.doctor import (
    device_checks,
    devices,
    endpoint_checks,
    exporter_checks,
    exporters,
    frameworks,
    installation,
    neighbours,
    settings,
    signals,
)
from otel_aimon.cli.doctor.document import Document, Failed
from otel_aimon.cli.doctor.findings import SEVERITIES, Check, NotSeenError, Part, Problem, Seen, where

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

PARTS: tuple[Part, ...] = (
    installation.PART,
    settings.PART,
    frameworks.PART,
    devices.PART,
    exporters.PART,
    neighbours.PART,
    signals.PART,
)
"""The sections, in their order: each may use what those before it have seen."""

CHECKS: tuple[Check, ...] = (
    *installation.CHECKS,
    *settings.CHECKS,
    *frameworks.CHECKS,
    *device_checks.CHECKS,
    *endpoint_checks.CHECKS,
    *exporter_checks.CHECKS,
    *neighbours.CHECKS,
)
"""What is looked for: a new check is a function in the module of what it looks at, and its name there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``otel-aimon doctor``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--offline", action="store_true", help="do not connect to the endpoints of exporters")


def run(options: argparse.Namespace) -> int:
    """Examine this environment.

    Returns:
        0 without errors, 1 with an error among the problems.

    Raises:
        CommandError: The output cannot be written.
    """
    with warnings.catch_warnings():
        # What libraries of the environment warn of is not about what is examined.
        warnings.simplefilter("ignore")
        document = examine(Seen(dict(os.environ), options.offline))
        text = json.dumps(document.as_data(), indent=2) if options.json else document.as_text()
    show(text)
    return 0 if document.ok else 1


def examine(seen: Seen, parts: Iterable[Part] = PARTS, checks: Iterable[Check] = CHECKS) -> Document:
    """Look at everything; what cannot be looked at is said and stops nothing."""
    problems: list[Problem] = []
    facts = [(part, _facts(part, seen, problems)) for part in parts]
    for check in checks:
        problems += _found(check, seen)
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    return Document(facts, problems)


def _facts(part: Part, seen: Seen, problems: list[Problem]) -> Any:
    try:
        found = part.look(seen)
        part.tell(found)
    except NotSeenError as missing:
        return Failed(f"it needs {missing}, which could not be examined")
    except Exception as error:
        problems.append(_failure(f"The section {part.key}", error))
        return Failed(where(error))
    setattr(seen, part.key, found)
    return found


def _found(check: Check, seen: Seen) -> Iterator[Problem]:
    try:
        for problem in check(seen):
            yield Problem(problem.severity, problem.what, problem.remedy, check.__name__)
    except NotSeenError:
        return
    except Exception as error:
        yield _failure(f"The check {check.__name__}", error)


def _failure(what: str, error: Exception) -> Problem:
    return Problem(
        "error",
        f"{what} failed: {where(error)}.",
        "This is a mistake of otel-aimon; please report it with this document.",
        "doctor",
    )
