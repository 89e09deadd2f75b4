"""What a report is made of, and what it is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_aimon.cli.faults import Fault
    from otel_aimon.cli.load import Outcome
    from otel_aimon.cli.receiver import Received


@dataclass(frozen=True)
class Evidence:
    """What a report is made of: what the clients saw, what the receiver got, and what went wrong on purpose."""

    outcomes: list[Outcome]
    received: Received
    faults: list[tuple[Fault, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        key: Its name in the JSON document.
        title: Its heading in the text.
        data: Plain data for the JSON document.
        lines: The same for people.
        ok: False when it found something wrong.
    """

    key: str
    title: str
    data: Any
    lines: list[str]
    ok: bool = True


@dataclass(frozen=True)
class Report:
    """Sections, in the order in which they are shown."""

    sections: list[Section] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no section found anything wrong."""
        return all(section.ok for section in self.sections)

    def as_text(self) -> str:
        """For people."""
        blocks = (
            "\n".join([section.title, *(f"  {line}".rstrip() for line in section.lines)])
            for section in self.sections
        )
        return "\n\n".join(blocks)

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {section.key: section.data for section in self.sections}
