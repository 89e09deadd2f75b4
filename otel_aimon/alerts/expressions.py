"""Arithmetic and comparisons over signals, such as ``aimon.cpu.utilization > 0.9 and waiting > 10``.

The text is parsed by :mod:`ast` and only nodes of a short list are accepted: numbers, names of signals
and of other expressions, ``+ - * /``, comparisons, ``and or not``, and ``min max abs``. Nothing is ever
compiled or run as Python.
"""

from __future__ import annotations

import ast
import math
import operator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from otel_aimon.alerts.problems import Wrong, shown, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST = 1000
DEEPEST = 50

_ARITHMETIC: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.AST], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}
_ALLOWED = "allowed are numbers, signals, + - * /, comparisons, and, or, not, min, max and abs"


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As written.
        node: Its tree.
        names: Signals and named expressions that it reads.
        is_condition: It is true or false rather than a number.
    """

    text: str
    node: ast.expr
    names: tuple[str, ...]
    is_condition: bool

    def value(self, readings: Mapping[str, float]) -> float | None:
        """Its value, 1 or 0 for a condition; None when it has none, as after a division by zero.

        Args:
            readings: A value for each of ``names``.
        """
        try:
            value = float(_value(self.node, readings))
        except (ZeroDivisionError, OverflowError):
            return None
        return value if math.isfinite(value) else None


def parse(text: str) -> Expression:
    """Check an expression.

    Raises:
        Wrong: It is malformed or uses something that is not allowed.
    """
    if len(text) > LONGEST:
        raise Wrong(f"the expression is longer than {LONGEST} characters", "split it into named expressions")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Wrong(f"{shown(text)} is no expression", _ALLOWED) from None
    names: dict[str, None] = {}
    _check(node, names, 0)
    return Expression(text, node, tuple(names), _is_condition(node))


def _check(node: ast.AST, names: dict[str, None], depth: int) -> None:
    if depth > DEEPEST:
        raise Wrong("the expression is nested too deeply", "split it into named expressions")
    if (name := _dotted(node)) is not None:
        names[name] = None
        return
    if isinstance(node, ast.Constant):
        if type(node.value) not in {int, float} or not math.isfinite(_as_float(node.value)):
            raise Wrong(f"{shown(node.value)} is not a number", _ALLOWED)
        return
    for child in _children(node):
        _check(child, names, depth + 1)


def _children(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
        return [node.operand]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        return [node.left, *node.comparators]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and not node.keywords
        and node.args
        and (len(node.args) == 1) == (node.func.id == "abs")
    ):
        return list(node.args)
    raise Wrong(f"{shown(_source(node))} is not allowed in an expression", _ALLOWED)


def _source(node: ast.AST) -> str:
    try:
        return ast.unparse(node)
    except RecursionError:
        return type(node).__name__


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _is_condition(node: ast.AST) -> bool:
    return isinstance(node, (ast.Compare, ast.BoolOp)) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    )


def _value(node: ast.AST, readings: Mapping[str, float]) -> float:
    if (name := _dotted(node)) is not None:
        return readings[name]
    if isinstance(node, ast.Constant):
        return _as_float(node.value)
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](_value(node.left, readings), _value(node.right, readings))
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, readings)
        return (
            -value
            if isinstance(node.op, ast.USub)
            else +value
            if isinstance(node.op, ast.UAdd)
            else not value
        )
    if isinstance(node, ast.BoolOp):
        values = (bool(_value(each, readings)) for each in node.values)
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare):
        sides = [_value(each, readings) for each in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides, sides[1:], strict=False)
        return all(_COMPARISONS[type(op)](left, right) for op, left, right in pairs)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*(_value(each, readings) for each in node.args))
    raise AssertionError(ast.dump(node))  # pragma: no cover - _check lets nothing else through


def check_units(expression: Expression, units: Mapping[str, str]) -> str | None:
    """Refuse sums and comparisons of different units.

    Args:
        expression: To check.
        units: Unit of each signal; a name that is missing can have any.

    Returns:
        The unit of the value; None when it cannot be told.

    Raises:
        Wrong: Naming both units.
    """
    return _unit(expression.node, units)


def _unit(node: ast.AST, units: Mapping[str, str]) -> str | None:
    if (name := _dotted(node)) is not None:
        return units.get(name)
    if isinstance(node, ast.Constant):
        return None
    if isinstance(node, ast.BinOp):
        left, right = _unit(node.left, units), _unit(node.right, units)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            return _same_unit(node, left, right)
        if isinstance(node.op, ast.Div) and left is not None and left == right:
            return "1"
        return (left if right in {"1", None} else None) if left not in {"1", None} else None
    if isinstance(node, ast.Compare):
        sides = [_unit(each, units) for each in (node.left, *node.comparators)]
        for left, right in pairwise(sides):
            _same_unit(node, left, right)
        return "1"
    inner = [_unit(each, units) for each in _children(node)]
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        return "1"
    unit = inner[0]
    for other in inner[1:]:
        unit = _same_unit(node, unit, other)
    return unit


def _same_unit(node: ast.AST, left: str | None, right: str | None) -> str | None:
    if left is not None and right is not None and left != right:
        raise Wrong(
            f"unit mismatch in {shown(_source(node))}: one side is in {left}, the other in {right}",
            "compare and add values of one unit only",
        )
    return left if left is not None else right


def resolve(
    expression: Expression, named: Mapping[str, Expression], signals: Mapping[str, str]
) -> tuple[str, ...]:
    """The signals that an expression reads, through the expressions that it names.

    Args:
        expression: To resolve.
        named: Expressions by name.
        signals: Known signals and their units.

    Raises:
        Wrong: A name is unknown, or expressions name one another in a circle.
    """
    found: dict[str, None] = {}
    _resolve(expression, named, signals, found, set(), ())
    return tuple(found)


def _resolve(
    expression: Expression,
    named: Mapping[str, Expression],
    signals: Mapping[str, str],
    found: dict[str, None],
    done: set[str],
    path: tuple[str, ...],
) -> None:
    if len(path) > DEEPEST:
        raise Wrong(
            "expressions name one another in too long a chain", f"let it have {DEEPEST} links at most"
        )
    for name in expression.names:
        if name in path:
            raise Wrong(
                f"expressions name one another in a circle: {' -> '.join((*path[path.index(name) :], name))}",
                "let one of them do without the others",
            )
        if name in done:
            continue
        if name in named:
            _resolve(named[name], named, signals, found, done, (*path, name))
        elif name in signals:
            found[name] = None
        else:
            raise unknown("signal", name, [*signals, *named])
        done.add(name)


def evaluate(
    expression: Expression,
    named: Mapping[str, Expression],
    readings: Mapping[str, float],
    known: dict[str, float | None] | None = None,
) -> float | None:
    """Its value where expressions that it names are evaluated first; None when any has none.

    Args:
        expression: Resolved before.
        named: Expressions by name.
        readings: A value for each signal.
        known: Values of named expressions that were evaluated already.
    """
    known = {} if known is None else known
    values: dict[str, float] = {}
    for name in expression.names:
        if name in named and name not in known:
            known[name] = evaluate(named[name], named, readings, known)
        value = known[name] if name in named else readings.get(name)
        if value is None:
            return None
        values[name] = value
    return expression.value(values)
