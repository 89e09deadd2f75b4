"""Numbers and tables for people who read a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 110
"""No line is longer."""

_SCALES = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (0.0, "µs", 1e6))


def seconds(value: float | None) -> str:
    """A duration with the unit that suits it."""
    if value is None:
        return "-"
    unit, factor = next(
        ((unit, factor) for least, unit, factor in _SCALES if value >= least > 0), _SCALES[2][1:]
    )
    return f"{digits(value * factor)} {unit}" if value else "0 s"


def quantity(value: float | None, unit: str) -> str:
    """A metric's value; seconds and bytes with the unit that suits them."""
    if value is None:
        return "-"
    if unit in _BYTES:
        return _scaled_bytes(value)
    return seconds(value) if unit == "s" else digits(value)


_BYTES = ("By", "By/s")


def _scaled_bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{digits(value)} {unit}"
        value /= 1024
    return f"{digits(value)} TiB"


def digits(value: float) -> str:
    """Whole numbers as they are, others with three digits at least."""
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 999.5 else f"{value:.3g}"


def cut(text: str, width: int) -> str:
    """``text``, shortened where it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "…"


def table(rows: Sequence[tuple[str, ...]], *, numbers_from: int, numbers_to: int | None = None) -> list[str]:
    """Aligned lines. Columns between the two limits are numbers: to the right."""
    columns = len(rows[0])
    numeric = range(numbers_from, columns if numbers_to is None else numbers_to)
    widths = [max(len(row[column]) for row in rows) for column in range(columns)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(cut("  ".join(cells).rstrip(), WIDTH - 2))
    return lines


def wrapped_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned lines of words; the last column is wrapped where it is too long."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = " " * sum(width + 2 for width in widths)
    lines: list[str] = []
    for row in rows:
        head = "".join(f"{cell.ljust(width)}  " for cell, width in zip(row, widths, strict=False))
        lines += wrapped(row[-1], head, indent) or [head.rstrip()]
    return lines


def wrapped(text: str, head: str = "", indent: str = "") -> list[str]:
    """Lines of whole words, so that paths and commands can be copied.

    Args:
        text: What is wrapped.
        head: Before its first line.
        indent: Before the others.
    """
    return textwrap.wrap(
        text,
        WIDTH - 2,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
