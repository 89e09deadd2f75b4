"""Numbers with units as people write them: ``5m``, ``2%``, ``500ms``, ``8GiB``."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from otel_aimon.alerts.problems import Wrong, shown
from otel_aimon.analysis.slo import SLIS, Objective, Sli

_DURATIONS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_BYTES = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip

_SUFFIXES: dict[str, dict[str, float]] = {
    "s": _DURATIONS,
    "1": {"%": 0.01},
    "By": _BYTES,
    "By/s": {f"{name}/s": factor for name, factor in _BYTES.items()},
    "Hz": {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "W": {"mW": 1e-3, "W": 1.0, "kW": 1e3},
    "J": {"J": 1.0, "kJ": 1e3, "MJ": 1e6},
    "Cel": {"C": 1.0, "°C": 1.0},
}
_KINDS = {
    "s": ("a duration", "500ms or 5m"),
    "1": ("a ratio", "90% or 0.9"),
    "By": ("a number of bytes", "8GiB"),
    "By/s": ("a number of bytes per second", "100MB/s"),
    "Hz": ("a frequency", "1.2GHz"),
    "W": ("a power", "300W"),
    "J": ("an energy", "5kJ"),
    "Cel": ("a temperature in degrees Celsius", "85C"),
}

_PART = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s.+-]*)\s*")
_LARGEST_PLAIN_RATIO = 10.0


def quantity(text: str, unit: str, of: str) -> float:
    """A number in ``unit``.

    Args:
        text: As written; a plain number is in ``unit`` already.
        unit: UCUM unit that is wanted.
        of: What it is a value of, for the message.

    Raises:
        Wrong: It is no number, or its unit is another one.
    """
    kind, example = _KINDS.get(unit, (f"a plain number ({unit})" if unit else "a plain number", "5"))
    parts = _PART.findall(text.strip())
    if not parts or _PART.sub("", text.strip()):
        raise Wrong(f"{shown(text)} is no value for {of}", f"write {kind}, such as {example}")
    factors = _SUFFIXES.get(unit, {})
    total = 0.0
    for number, suffix in parts:
        if suffix and suffix not in factors:
            raise _mismatch(text, suffix, of, kind, example)
        if not suffix and len(parts) > 1:
            raise Wrong(f"{shown(text)} is no value for {of}", f"write {kind}, such as {example}")
        total += _scaled(number, factors.get(suffix, 1.0))
    if not math.isfinite(total):
        raise Wrong(f"{shown(text)} is no finite number", f"write {kind}, such as {example}")
    if unit == "1" and not parts[0][1] and abs(total) > _LARGEST_PLAIN_RATIO:
        raise Wrong(
            f"unit mismatch: {of} is a ratio, so {shown(text)} would mean {total:.0%}".replace("%", " %"),
            f"write {text.strip()}%",
        )
    return total


def _scaled(number: str, factor: float) -> float:
    """Their product, so that 99.9 % is 0.999 and not the number beside it."""
    try:
        return float(Decimal(number) * Decimal(repr(factor)))
    except ArithmeticError:
        return math.inf


def _mismatch(text: str, suffix: str, of: str, kind: str, example: str) -> Wrong:
    other = next((_KINDS[unit][0] for unit, known in _SUFFIXES.items() if suffix in known), None)
    if other is None:
        return Wrong(f"{shown(text)} has the unknown unit {suffix}", f"{of} is {kind}: write {example}")
    return Wrong(f"unit mismatch: {shown(text)} is {other}, but {of} is {kind}", f"write {example}")


def duration(text: str, of: str) -> float:
    """Seconds, not negative.

    Raises:
        Wrong: It is no duration.
    """
    seconds = quantity(text, "s", of)
    if seconds < 0:
        raise Wrong(f"{of} is negative", "write a duration such as 30s or 5m")
    return seconds


_SHORT_FORM = re.compile(r"\s*(?P<target>[^<]+?)\s*(?:<=?\s*(?P<limit>\S.*?)\s*)?")


def objective(name: str, text: str, sli: str | None = None, model: str | None = None) -> Objective:
    """An objective in its short form: ``99.9%`` of requests without an error, ``99% < 500ms``.

    Args:
        name: Its name; also its indicator, unless ``sli`` says another one.
        text: Target, and limit where the indicator is a latency.
        sli: error, ttft, tpot or e2e.
        model: The one model that it is about.

    Raises:
        Wrong: With what to write instead.
    """
    found = _SHORT_FORM.fullmatch(text)
    if found is None:
        raise Wrong(f"{shown(text)} is no objective", "write 99.9%, or 99% < 500ms for a latency")
    limit = found["limit"]
    return make_objective(name, sli or name, found["target"], limit, model)


def make_objective(name: str, sli: str, target: str, limit: str | None, model: str | None) -> Objective:
    """An objective from its written parts.

    Raises:
        Wrong: With what to write instead.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise Wrong(f"{shown(name)} cannot name an objective", "use letters, digits, - and _")
    indicator = next((known for known in SLIS if known == sli), None)
    if indicator is None:
        raise Wrong(f"unknown indicator {shown(sli)}", f"use one of {', '.join(SLIS)}, by name or as sli")
    share = quantity(target, "1", f"the target of {name}")
    seconds = None if limit is None else duration(limit, f"the limit of {name}")
    return checked_objective(name, indicator, share, seconds, model)


def checked_objective(
    name: str, sli: Sli, target: float, limit: float | None, model: str | None = None
) -> Objective:
    """An objective from its parts.

    Raises:
        Wrong: With what to write instead.
    """
    try:
        return Objective(name, sli, target, limit, model)
    except ValueError as error:
        example = "99.9%" if sli == "error" else "99% < 500ms"
        raise Wrong(f"{name} is no objective: {error}", f"write it like {example}") from None
