"""Rules and objectives from a YAML file, from the environment, or from code.

Whatever is wrong becomes a :class:`Problem` that names the file and the line, says what is wrong and
what to write; everything else is used. See docs/alerts.md for the format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.alerts import expressions, openslo
from otel_aimon.alerts.expressions import Expression
from otel_aimon.alerts.inhibition import circle
from otel_aimon.alerts.located import Item, documents
from otel_aimon.alerts.problems import Problem, Wrong, shown, unknown
from otel_aimon.alerts.quantities import duration, make_objective, objective, quantity
from otel_aimon.alerts.rules import RULES, SEVERITIES, Rule, burn_rules
from otel_aimon.alerts.thresholds import Threshold
from otel_aimon.alerts.unusual import OFF, ON, Unusual
from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, Objective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

EXTRA = "otel-aimon[file-config]"
"""What to install for files."""

_TOP = ("rules", "expressions", "slos")
_TUNABLE = (
    "enabled", "on", "off", "for", "severity", "keep_firing", "repeat", "samples", "inhibited_by", "summary",
)  # fmt: skip
_OWN = (
    "signal",
    "expression",
    "op",
    "anomaly",
    "where",
    "unit",
    *(key for key in _TUNABLE if key != "samples"),
)
_SLO = ("sli", "target", "limit", "model")

_OPERATORS = {">": (True, True), ">=": (True, False), "<": (False, True), "<=": (False, False),
              "above": (True, True), "below": (False, True)}  # fmt: skip
"""Written operator -> (above, strictly)."""

_HYSTERESIS = 0.7
_LONGEST = 86_400.0
_LEAST_REPEAT = 10.0

_BUILT_IN = tuple(rule for rule in RULES if rule.category != "slo")
_RULE_EXAMPLE = "cpu.high: {signal: aimon.cpu.utilization, on: 90%, for: 5m}"

SIGNALS: dict[str, str] = {
    metric.name: metric.unit for metric in semconv.METRICS if metric.kind != "histogram"
}
"""Signals that a rule can read, and their units."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What the alerts of a process go by.

    Attributes:
        rules: All rules in force, those of the objectives and the user's own among them.
        thresholds: How evidence for the user's own rules comes about.
        objectives: All objectives in force.
        problems: What was wrong and is left out.
    """

    rules: tuple[Rule, ...]
    thresholds: tuple[Threshold | Unusual, ...]
    objectives: tuple[Objective, ...]
    problems: tuple[Problem, ...] = ()


def load(
    path: str | Path | None = None,
    *,
    slos: str = "",
    objectives: Iterable[Objective] = (),
    signals: Mapping[str, str] | None = None,
) -> RuleSet:
    """The rules in force.

    Args:
        path: A YAML file; None for none.
        slos: Objectives in the short form of the environment, ``error=99.9%, ttft=99%<500ms``.
        objectives: Objectives from code. Code wins over the environment, and that over the file.
        signals: Signals that can be read, and their units; those that otel-aimon exports by default.
    """
    text = ""
    unreadable: list[Problem] = []
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            unreadable = [
                Problem(
                    str(path),
                    0,
                    f"the file of alert rules cannot be read ({type(error).__name__}), the default rules run",
                    "check that it exists, that the service may read it, and that it is UTF-8",
                )
            ]
    loaded = parse(text, file=str(path or ""), slos=slos, objectives=objectives, signals=signals)
    return replace(loaded, problems=(*unreadable, *loaded.problems))


def parse(
    text: str,
    *,
    file: str = "rules.yaml",
    slos: str = "",
    objectives: Iterable[Objective] = (),
    signals: Mapping[str, str] | None = None,
) -> RuleSet:
    """As :func:`load`, from a text that was read already.

    Args:
        text: YAML.
        file: Its name in messages.
        slos: As in :func:`load`.
        objectives: As in :func:`load`.
        signals: As in :func:`load`.
    """
    reader = _Reader(file, SIGNALS if signals is None else signals)
    trees = reader.read(text)
    for tree in trees:
        reader.attempt(reader.read_objectives, tree)
    reader.read_short_objectives(slos)
    for each in objectives:
        reader.objectives[each.name] = each
    reader.begin_rules()
    for tree in trees:
        reader.attempt(reader.read_expressions, tree)
    for tree in trees:
        reader.attempt(reader.read_rules, tree)
    return reader.result()


class _Reader:
    """Takes a file apart; ``attempt`` turns what is wrong into problems."""

    def __init__(self, file: str, signals: Mapping[str, str]) -> None:
        self.file = file
        self.signals = signals
        self.problems: list[Problem] = []
        self.objectives = {each.name: each for each in DEFAULT_OBJECTIVES}
        self.rules: dict[str, Rule] = {}
        self.disabled: set[str] = set()
        self.thresholds: dict[str, Threshold | Unusual] = {}
        self.named: dict[str, Expression] = {}
        self.inhibitor_lines: dict[str, int] = {}
        self._about: dict[str, Objective] = {}

    # --- the parts of a file -------------------------------------------------------------------

    def read(self, text: str) -> list[Item]:
        """All documents up to the first that is malformed."""
        found: list[Item] = []
        if not text.strip():
            return found
        try:
            for tree in documents(text):
                if not tree.is_null:
                    self.attempt(self._check_document, tree)
                    found.append(tree)
        except Wrong as wrong:
            self.note(replace_what(wrong, f"{wrong.what}, so the rest of the file is not used"))
        except ImportError:
            self.note(Wrong("reading a file of alert rules needs PyYAML", f"install {EXTRA}"))
        return [tree for tree in found if tree.fields is not None]

    def _check_document(self, tree: Item) -> None:
        fields = tree.mapping("a file of alert rules", f"the keys {', '.join(_TOP)}")
        if openslo.is_openslo(tree):
            return
        for key in fields:
            if key not in _TOP:
                self.note(unknown("key", key, _TOP, line=tree.lines[key]))

    def read_objectives(self, tree: Item) -> None:
        """Objectives in our form and in OpenSLO's."""
        if openslo.is_openslo(tree):
            for found in openslo.objectives(tree):
                self.objectives[found.name] = found
            return
        section = self._section(tree, "slos")
        if section is None:
            return
        for name, item in section.mapping("slos", "ttft: 99% < 500ms").items():
            self.attempt(self._read_objective, name, item)

    def _read_objective(self, name: str, item: Item) -> None:
        if item.flag is False or (item.text or "").lower() == "none":
            if name not in self.objectives:
                raise unknown("objective", name, self.objectives, line=item.line)
            del self.objectives[name]
            return
        if item.text is not None:
            self.objectives[name] = objective(name, item.text)
            return
        fields = item.mapping(f"the objective {name}", "99% < 500ms, or sli, target and limit")
        parts: dict[str, str] = {}
        for key, value in fields.items():
            if key not in _SLO:
                raise unknown("key", key, _SLO, line=item.lines[key])
            parts[key] = value.scalar(key, "a single value")
        if "target" not in parts:
            raise Wrong(f"the objective {name} has no target", "add one, such as target: 99%", item.line)
        self.objectives[name] = make_objective(
            name, parts.get("sli", name), parts["target"], parts.get("limit"), parts.get("model")
        )

    def read_short_objectives(self, text: str) -> None:
        """``error=99.9%, ttft=99%<500ms``."""
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, equals, value = part.partition("=")
            try:
                if not equals:
                    raise Wrong(f"{shown(part)} is no objective", "write error=99.9% or ttft=99%<500ms")
                self.objectives[name.strip()] = objective(name.strip(), value)
            except Wrong as wrong:
                self.problems.append(
                    Problem("the objectives in the environment", 0, wrong.what, wrong.remedy)
                )

    def begin_rules(self) -> None:
        """Start from the built-in rules and those of the objectives."""
        for each in self.objectives.values():
            for rule in burn_rules(each):
                self.rules[rule.name] = rule
                self._about[rule.name] = each
        for rule in _BUILT_IN:
            self.rules[rule.name] = rule

    def read_expressions(self, tree: Item) -> None:
        """Named expressions, and that none names itself in a circle."""
        section = self._section(tree, "expressions")
        if section is None:
            return
        items = section.mapping("expressions", "load: aimon.cpu.utilization * 2")
        read = [
            (name, item) for name, item in items.items() if self.attempt(self._read_expression, name, item)
        ]
        for name, item in read:
            self.attempt(self._check_expression, name, item)

    def _check_expression(self, name: str, _item: Item) -> None:
        itself = Expression(name, self.named[name].node, (name,), is_condition=False)
        expressions.resolve(itself, self.named, self.signals)

    def _read_expression(self, name: str, item: Item) -> None:
        if not name.isidentifier() or name in self.signals:
            raise Wrong(f"{shown(name)} cannot name an expression", "use letters, digits and _", item.line)
        self.named[name] = expressions.parse(item.scalar(f"the expression {name}", "arithmetic over signals"))

    def read_rules(self, tree: Item) -> None:
        """Rules that are disabled, tuned or added."""
        section = self._section(tree, "rules")
        if section is None:
            return
        for name, item in section.mapping("rules", _RULE_EXAMPLE).items():
            self.attempt(self._read_rule, name, item)

    def _read_rule(self, name: str, item: Item) -> None:
        known = [each for each in self.rules if fnmatchcase(each, name) and each not in self.thresholds]
        own = item.fields is not None and ("signal" in item.fields or "expression" in item.fields)
        if own:
            if name in self.rules:
                raise Wrong(f"there is a rule {name} already", "give yours another name", item.line)
            self._add(name, item)
        elif not known:
            wrong = unknown("rule", name, self.rules, line=item.line)
            raise Wrong(
                wrong.what, f"{wrong.remedy}; a rule of your own needs a signal or an expression", item.line
            )
        elif item.flag is not None:
            self._enable(known, enabled=item.flag)
        else:
            for each in known:
                self._tune(each, item)

    def _enable(self, names: list[str], *, enabled: bool) -> None:
        if enabled:
            self.disabled.difference_update(names)
        else:
            self.disabled.update(names)

    # --- one rule ------------------------------------------------------------------------------

    def _tune(self, name: str, item: Item) -> None:
        fields = item.mapping(f"the rule {name}", "false, or keys such as on and for")
        rule = self.rules[name]
        for key in fields:
            if key not in _TUNABLE:
                raise unknown(f"key of the rule {name}:", key, _TUNABLE, line=item.lines[key])
        # All or nothing: half of a tuned rule is what nobody asked for.
        changes = self._changes(rule, fields)
        if "on" in changes and "off" not in changes:
            changes["off"] = changes["on"] * rule.off / rule.on
        if changes.get("hold") == 0.0:
            # At the first evaluation, then: what the rule looked back on was part of its hold.
            changes["needed"] = changes["of"] = 1
        tuned = replace(rule, **changes)
        self._check_thresholds(tuned, item)
        self._check_reachable(tuned, fields)
        self._put(tuned, fields)

    def _add(self, name: str, item: Item) -> None:
        fields = item.mapping(f"the rule {name}", _RULE_EXAMPLE)
        if not 0 < len(name) <= 128 or not all(part.isidentifier() for part in name.split(".")):
            raise Wrong(f"{shown(name)} cannot name a rule", "use letters, digits, _ and dots", item.line)
        for key in fields:
            if key not in _OWN:
                raise unknown(f"key of the rule {name}:", key, _OWN, line=item.lines[key])
        expression, unit = self._expression(name, fields)
        signals = expressions.resolve(expression, self.named, self.signals)
        above, strictly = self._operator(fields)
        rule = Rule(
            name=name,
            category="custom",
            domain=f"custom.{name}",
            signal=fields["signal"].text or "" if "signal" in fields else expression.text,
            unit=unit,
            severity="warning",
            on=1.0,
            off=1.0,
            above=above,
            summary="{where}: " + name + (" holds." if expression.is_condition else " is at {value}."),
            rationale="Written by the operators of this service.",
        )
        unusual = self._is_anomaly(fields)
        if unusual:
            self._refuse(fields, ("op",), "which is judged by its past", "an anomaly")
            rule = replace(
                rule,
                category="anomaly",
                on=ON,
                off=OFF,
                score_unit="",
                summary="{where}: " + name + " is unusual, at {value}.",
            )
        changes = self._changes(rule, fields)
        if unusual and expression.is_condition:
            raise Wrong(
                f"the rule {name} is true or false, which is never unusual", "name a signal", item.line
            )
        if unusual:
            changes["off"] = changes.get("off", changes.get("on", ON) * OFF / ON)
        elif expression.is_condition:
            self._refuse(fields, ("on", "off", "op"), "which its expression says already")
        elif "on" not in changes:
            raise Wrong(f"the rule {name} has no threshold", "add one, such as on: 90%", item.line)
        else:
            changes["on"], changes["off"] = _with_hysteresis(
                changes["on"], changes.get("off"), above, strictly
            )
        rule = replace(rule, **changes)
        if not rule.hold:
            rule = replace(rule, needed=1, of=1)
        self._check_thresholds(rule, item)
        threshold = Threshold(name, expression, self.named, signals, self._where(fields))
        self._put(rule, fields)
        self.thresholds[name] = Unusual(threshold) if unusual else threshold

    def _put(self, rule: Rule, fields: Mapping[str, Item]) -> None:
        enabled = fields.get("enabled")
        if enabled is not None:
            if enabled.flag is None:
                raise Wrong(
                    f"enabled of {rule.name} is neither true nor false", "write true or false", enabled.line
                )
            self._enable([rule.name], enabled=enabled.flag)
        if "inhibited_by" in fields:
            self.inhibitor_lines[rule.name] = fields["inhibited_by"].line
        self.rules[rule.name] = rule

    def _expression(self, name: str, fields: Mapping[str, Item]) -> tuple[Expression, str]:
        if "signal" in fields and "expression" in fields:
            line = fields["expression"].line
            raise Wrong(f"the rule {name} has both a signal and an expression", "keep one of them", line)
        key = "signal" if "signal" in fields else "expression"
        item = fields[key]
        text = item.scalar(key, "a name or arithmetic over names")
        if key == "signal":
            if text not in self.signals:
                raise unknown("signal", text, self.signals, line=item.line)
            unit = self.signals[text]
            if "unit" in fields and fields["unit"].text != unit:
                raise Wrong(
                    f"unit mismatch: {text} is in {unit}, not {shown(fields['unit'].text)}",
                    "leave the unit out",
                    fields["unit"].line,
                )
            return expressions.parse(text), unit
        try:
            expression = expressions.parse(text)
            expressions.resolve(expression, self.named, self.signals)
            unit = expressions.check_units(expression, self.signals) or ""
        except Wrong as wrong:
            raise Wrong(wrong.what, wrong.remedy, item.line) from None
        return expression, fields["unit"].scalar("unit", "a unit such as s") if "unit" in fields else unit

    def _operator(self, fields: Mapping[str, Item]) -> tuple[bool, bool]:
        item = fields.get("op")
        if item is None:
            return True, False
        found = _OPERATORS.get((item.text or "").strip())
        if found is None:
            raise unknown("operator", item.text or "", _OPERATORS, line=item.line)
        return found

    @staticmethod
    def _is_anomaly(fields: Mapping[str, Item]) -> bool:
        item = fields.get("anomaly")
        if item is None:
            return False
        if item.flag is None:
            raise Wrong("anomaly is neither true nor false", "write anomaly: true", item.line)
        return item.flag

    def _where(self, fields: Mapping[str, Item]) -> tuple[tuple[str, str], ...]:
        item = fields.get("where")
        if item is None:
            return ()
        pairs = item.mapping("where", 'where: {quantile: "0.95"}')
        return tuple((key, value.scalar(key, "a single value")) for key, value in pairs.items())

    def _changes(self, rule: Rule, fields: Mapping[str, Item]) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for key, item in fields.items():
            read = _READERS.get(key)
            if read is None:
                continue
            try:
                name, value = read(rule, item)
            except Wrong as wrong:
                raise Wrong(wrong.what, wrong.remedy, wrong.line or item.line) from None
            changes[name] = value
        return changes

    @staticmethod
    def _refuse(
        fields: Mapping[str, Item], keys: tuple[str, ...], why: str, what: str = "a condition"
    ) -> None:
        for key in keys:
            if key in fields:
                raise Wrong(f"{what} takes no {key}, {why}", f"leave {key} out", fields[key].line)

    @staticmethod
    def _check_thresholds(rule: Rule, item: Item) -> None:
        if rule.off > rule.on if rule.above else rule.off < rule.on:
            side = "below" if rule.above else "above"
            line = (item.fields or {}).get("off", item).line
            raise Wrong(
                f"the rule {rule.name} would fire at {rule.on:g} and be clear at {rule.off:g} already",
                f"choose an off that is {side} on",
                line,
            )

    def _check_reachable(self, rule: Rule, fields: Mapping[str, Item]) -> None:
        about = self._about.get(rule.name)
        if about is not None and rule.on > about.largest_burn_rate:
            raise Wrong(
                f"unreachable burn threshold: {rule.name} can never reach {rule.on:g}, for with the objective "
                f"{about.describe()} the burn rate is {about.largest_burn_rate:.4g} when every request is bad",
                f"choose at most {0.5 * about.largest_burn_rate:.4g}",
                fields["on"].line if "on" in fields else 0,
            )

    # --- problems ------------------------------------------------------------------------------

    def attempt(self, act: Callable[..., object], *args: Any) -> bool:
        """Do one part; what is wrong with it is noted, and the other parts go on."""
        try:
            act(*args)
        except Wrong as wrong:
            item = args[-1]
            self.note(wrong, item.line if isinstance(item, Item) else 0)
            return False
        return True

    def note(self, wrong: Wrong, line: int = 0) -> None:
        """Keep a problem."""
        self.problems.append(Problem(self.file, wrong.line or line, wrong.what, wrong.remedy))

    @staticmethod
    def _section(tree: Item, name: str) -> Item | None:
        return None if openslo.is_openslo(tree) or tree.fields is None else tree.fields.get(name)

    def result(self) -> RuleSet:
        """What came of it."""
        while names := circle(self.rules.values()):
            culprits = [name for name in names if name in self.inhibitor_lines]
            culprit = culprits[-1]
            self.note(
                Wrong(
                    f"alerts would inhibit one another in a circle: {' <- '.join((*names, names[0]))}; "
                    f"inhibited_by of {culprit} is not used",
                    "let one of them go",
                    self.inhibitor_lines[culprit],
                )
            )
            self.rules[culprit] = replace(self.rules[culprit], inhibited_by=())
        enabled = tuple(rule for name, rule in self.rules.items() if name not in self.disabled)
        return RuleSet(
            rules=enabled,
            thresholds=tuple(each for name, each in self.thresholds.items() if name not in self.disabled),
            objectives=tuple(self.objectives.values()),
            problems=tuple(sorted(self.problems, key=lambda problem: problem.line)),
        )


def replace_what(wrong: Wrong, what: str) -> Wrong:
    """The same at the same place, in other words."""
    return Wrong(what, wrong.remedy, wrong.line)


def _with_hysteresis(on: float, off: float | None, above: bool, strictly: bool) -> tuple[float, float]:
    if off is None:
        off = on * _HYSTERESIS if (on > 0) == above else on / _HYSTERESIS
    if strictly:
        just_beyond = math.nextafter(on, math.inf if above else -math.inf)
        # A count above 0 is clear at 0: there is nothing in between.
        off = just_beyond if off == on else off
        on = just_beyond
    return on, off


def _read_on(rule: Rule, item: Item) -> tuple[str, float]:
    return "on", quantity(item.scalar("on", "a threshold"), rule.scale, f"on of {rule.name}")


def _read_off(rule: Rule, item: Item) -> tuple[str, float]:
    return "off", quantity(item.scalar("off", "a threshold"), rule.scale, f"off of {rule.name}")


def _read_severity(_rule: Rule, item: Item) -> tuple[str, str]:
    if item.text not in SEVERITIES:
        raise unknown("severity", item.text or "", SEVERITIES)
    return "severity", item.text


def _read_samples(rule: Rule, item: Item) -> tuple[str, int]:
    text = item.scalar("samples", "a whole number")
    if not text.isdecimal():
        raise Wrong(f"{shown(text)} is no number of samples for {rule.name}", "write a whole number")
    return "samples", int(text)


def _read_inhibitors(_rule: Rule, item: Item) -> tuple[str, tuple[str, ...]]:
    return "inhibited_by", tuple(item.texts("inhibited_by", "a list of rules"))


def _read_summary(_rule: Rule, item: Item) -> tuple[str, str]:
    return "summary", item.scalar("summary", "one sentence")


def _duration_reader(field: str, key: str, least: float = 0.0) -> Callable[[Rule, Item], tuple[str, float]]:
    def read(rule: Rule, item: Item) -> tuple[str, float]:
        seconds = duration(item.scalar(key, "a duration such as 5m"), f"{key} of {rule.name}")
        if not least <= seconds <= _LONGEST:
            raise Wrong(
                f"{key} of {rule.name} is {item.text}", f"choose a duration from {least:g}s to {_LONGEST:g}s"
            )
        return field, seconds

    return read


_READERS: dict[str, Callable[[Rule, Item], tuple[str, Any]]] = {
    "on": _read_on,
    "off": _read_off,
    "severity": _read_severity,
    "for": _duration_reader("hold", "for"),
    "keep_firing": _duration_reader("keep_firing", "keep_firing"),
    "repeat": _duration_reader("repeat", "repeat", _LEAST_REPEAT),
    "samples": _read_samples,
    "inhibited_by": _read_inhibitors,
    "summary": _read_summary,
}
