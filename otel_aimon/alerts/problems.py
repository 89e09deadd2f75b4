"""What is wrong in a file of the user's, said so that it can be put right."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("otel_aimon")

_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and what to do about it.

    Attributes:
        file: Where; a file or a setting.
        line: The line in it, from 1; 0 where there are none.
        what: What is wrong and what comes of it.
        remedy: What to write instead.
    """

    file: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}; {self.remedy}."


class Wrong(ValueError):  # noqa: N818 - not an error of the program's
    """Raised where something is wrong, caught where its place is known.

    Args:
        what: What is wrong.
        remedy: What to write instead.
        line: Where, if that is known already.
    """

    def __init__(self, what: str, remedy: str, line: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.line = line


def unknown(kind: str, name: str, known: Iterable[str], *, line: int = 0) -> Wrong:
    """A name that nobody knows, with the most similar one that is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    choices = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    remedy = f"did you mean {close[0]}" if close else f"known are {choices}" if known else "leave it out"
    return Wrong(f"unknown {kind} {shown(name)}", remedy, line)


def shown(value: object) -> str:
    """A value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def warn(problems: Iterable[Problem]) -> None:
    """Log one warning for each problem."""
    for problem in problems:
        logger.warning("otel-aimon: %s", problem)
