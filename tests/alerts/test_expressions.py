"""Expressions are arithmetic over signals, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.alerts.expressions import check_units, evaluate, parse, resolve
from otel_aimon.alerts.problems import Wrong

VALUES = {"a": 2.0, "b.c": 3.0, "zero": 0.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a + b.c * 2", 8.0),
        ("(a - b.c) / 4", -0.25),
        ("-a", -2.0),
        ("+a", 2.0),
        ("max(a, b.c, 1)", 3.0),
        ("min(a, b.c)", 2.0),
        ("abs(a - b.c)", 1.0),
        ("a > 1 and b.c > 1", 1.0),
        ("a > 1 and b.c > 9", 0.0),
        ("a > 9 or not b.c > 9", 1.0),
        ("1 < a <= 2 < b.c", 1.0),
        ("1 < a < 2", 0.0),
        ("a == 2", 1.0),
        ("a != 2", 0.0),
        ("a / zero", None),
        ("a * 1e308 * 10", None),
    ],
)
def test_values(text: str, value: float | None) -> None:
    expression = parse(text)
    assert evaluate(expression, {}, VALUES) == value
    assert set(expression.names) <= set(VALUES)


@pytest.mark.parametrize("text", ["a > 1", "a > 1 or a < 0", "not a"])
def test_conditions(text: str) -> None:
    assert parse(text).is_condition


def test_numbers_are_no_conditions() -> None:
    assert not parse("a + 1").is_condition


@pytest.mark.parametrize(
    "text",
    [
        "", "a +", "a b", "f(a)", "a[0]", "'x'", "lambda: 1", "[a]", "a if a else a", "a ** 9", "a // 2", "a % 2",
        "a @ a", "a & 1", "~a", "a is a", "a in a", "abs(a, a)", "min(a)", "min(*a)", "max(a, key=a)", "True", "None",
        "1j", "f'{a}'", "(a := 1)", "().__class__", "max().x", "1e999", "a; a", "await a", "1 .real", "a" * 1001,
        "(" * 60 + "a" + ")" * 60 + "+" * 60, "-" * 900 + "a", "import os",
    ],
)  # fmt: skip
def test_nothing_else_is_allowed(text: str) -> None:
    with pytest.raises(Wrong):
        parse(text)


@given(st.text(alphabet="ab.c +-*/<>=()1,andornotminmax_[]{}'\"\\\n:", max_size=40))
def test_any_text_is_checked(text: str) -> None:
    try:
        expression = parse(text)
    except Wrong:
        return
    evaluate(expression, {}, dict.fromkeys(expression.names, 1.0))


UNITS = {"cpu": "1", "memory": "By", "limit": "By", "latency": "s", "any": ""}


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("memory / limit", "1"),
        ("memory + limit", "By"),
        ("memory + 5", "By"),
        ("latency * cpu", "s"),
        ("2 * latency", None),
        ("latency * 2", "s"),
        ("memory / latency", None),
        ("max(memory, limit)", "By"),
        ("cpu > 0.9 and latency > 1", "1"),
        ("not cpu", "1"),
        ("-latency", "s"),
        ("5", None),
    ],
)
def test_units(text: str, unit: str | None) -> None:
    assert check_units(parse(text), UNITS) == unit


@pytest.mark.parametrize(
    "text",
    ["memory + latency", "cpu > latency", "max(memory, cpu)", "memory / limit > memory", "1 < cpu < memory"],
)
def test_units_that_do_not_fit(text: str) -> None:
    with pytest.raises(Wrong, match="unit mismatch"):
        check_units(parse(text), UNITS)


def test_many_paths_to_one_expression_are_walked_once() -> None:
    named = {f"e{n}": parse(f"max(e{n + 1}, f{n + 1}) - 1") for n in range(40)}
    named |= {f"f{n}": parse(f"min(e{n + 1}, f{n + 1})") for n in range(1, 40)}
    named |= {"e40": parse("a"), "f40": parse("a")}
    assert resolve(named["e0"], named, {"a": "1"}) == ("a",)
    assert evaluate(named["e0"], named, {"a": 40.0}) is not None


def test_a_chain_can_be_too_long() -> None:
    named = {f"e{n}": parse(f"e{n + 1}") for n in range(100)}
    with pytest.raises(Wrong, match="too long a chain"):
        resolve(named["e0"], named, {"a": "1"})
