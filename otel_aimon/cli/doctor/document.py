"""The document of an examination: text for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from otel_aimon.cli.doctor.findings import SEVERITIES, Part, Problem
from otel_aimon.cli.text import wrapped
from otel_aimon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = 1
"""Version of the JSON document; it grows when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Document:
    """What is shown.

    Attributes:
        parts: Each with its facts, or with the reason why it has none.
        problems: What is wrong, the worst first.
    """

    parts: Sequence[tuple[Part, Any]]
    problems: Sequence[Problem]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(problem.severity == "error" for problem in self.problems)

    def as_data(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": SCHEMA,
            "otel_aimon": __version__,
            "ok": self.ok,
            **{part.key: _plain(facts) for part, facts in self.parts},
            "problems": [asdict(problem) for problem in self.problems],
        }

    def as_text(self) -> str:
        """The sections, and the problems last, where they are seen."""
        blocks = [_block(part.title, _lines(part, facts)) for part, facts in self.parts]
        return "\n\n".join([*blocks, _block(self._verdict(), _numbered(self.problems))])

    def _verdict(self) -> str:
        counted = Counter(problem.severity for problem in self.problems)
        found = [
            f"{counted[severity]} {severity}{'s' if counted[severity] != 1 and severity != 'info' else ''}"
            for severity in SEVERITIES
            if counted[severity]
        ]
        return f"Problems: {', '.join(found) or 'none'}"


@dataclass(frozen=True)
class Failed:
    """Stands for the facts of a part that could not be examined.

    Attributes:
        failed: The error's class and place.
    """

    failed: str


def _lines(part: Part, facts: Any) -> list[str]:
    return [f"could not be examined: {facts.failed}"] if isinstance(facts, Failed) else part.tell(facts)


def _block(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def _numbered(problems: Sequence[Problem]) -> list[str]:
    lines: list[str] = []
    for number, problem in enumerate(problems, 1):
        head = f"{number}. {problem.severity.upper():<7}  "
        indent = " " * len(head)
        lines += wrapped(problem.what, head, indent)
        lines += wrapped(problem.remedy, f"{indent}-> ", f"{indent}   ")
    return lines


def _plain(facts: Any) -> Any:
    if isinstance(facts, (tuple, list)):
        return [_plain(each) for each in facts]
    return asdict(facts) if is_dataclass(facts) and not isinstance(facts, type) else facts
