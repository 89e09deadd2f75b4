"""Rule files: what they can say, and how each mistake is named while the other rules run."""

# ruff: noqa: ISC004 - each text is one message
from __future__ import annotations

import builtins
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aimon.alerts import located
from otel_aimon.alerts.problems import Problem, warn
from otel_aimon.alerts.rulefile import SIGNALS, RuleSet, load, parse
from otel_aimon.alerts.rules import RULES, Rule
from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, Objective
from tests.alerts.support import M, World

KNOWN = {
    "aimon.cpu.utilization": "1",
    "aimon.memory.limit": "By",
    "aimon.inference.queue.size": "{request}",
    "aimon.inference.latency.quantile": "s",
    "hw.temperature": "Cel",
}


def read(text: str, **more: Any) -> RuleSet:
    return parse(text, signals=KNOWN, **more)


def named(rules: RuleSet, name: str) -> Rule:
    return next(rule for rule in rules.rules if rule.name == name)


def problems(text: str) -> list[str]:
    found = read(text)
    # Whatever is wrong, the default rules run.
    assert {rule.name for rule in RULES} <= {rule.name for rule in found.rules}
    return [str(problem) for problem in found.problems]


def test_without_a_file_the_defaults_run() -> None:
    assert load() == RuleSet(RULES, (), DEFAULT_OBJECTIVES)


def test_rules_are_disabled_and_enabled_by_name_and_pattern() -> None:
    found = read("rules:\n  latency.spike: off\n  gpu.*: {enabled: false}\n  gpu.error: true\n")
    assert found.problems == ()
    gone = {rule.name for rule in RULES} - {rule.name for rule in found.rules}
    assert gone == {
        "latency.spike", "gpu.throttled", "gpu.power_capped", "gpu.idle_under_load", "gpu.memory.high",
    }  # fmt: skip


def test_a_rule_is_tuned() -> None:
    found = read(
        """
rules:
  error.ratio: {on: 2%, for: 2m30s, severity: critical, samples: 100, keep_firing: 10m, repeat: 1h}
  gpu.idle_under_load: {on: 10%}
  memory.exhaustion: {on: 30m, off: 1h, inhibited_by: [stall, gpu.*], summary: "{where} is full in {value}."}
"""
    )
    assert found.problems == ()
    ratio = named(found, "error.ratio")
    assert (ratio.on, ratio.hold, ratio.severity, ratio.samples) == (0.02, 150.0, "critical", 100)
    assert (ratio.keep_firing, ratio.repeat) == (600.0, 3600.0)
    assert ratio.off == pytest.approx(0.014)
    idle = named(found, "gpu.idle_under_load")
    assert (idle.on, idle.off) == (0.1, pytest.approx(0.15))
    memory = named(found, "memory.exhaustion")
    assert (memory.on, memory.off, memory.inhibited_by) == (1800.0, 3600.0, ("stall", "gpu.*"))


def test_no_hold_is_at_once() -> None:
    ratio = named(read("rules: {error.ratio: {for: 0s}}"), "error.ratio")
    assert (ratio.hold, ratio.ticks, ratio.ticks_needed) == (0.0, 1, 1)


def test_a_threshold_rule_of_ones_own_fires() -> None:
    found = read(
        """
rules:
  cpu.high:
    signal: aimon.cpu.utilization
    op: ">"
    on: 90%
    off: 75%
    for: 1m
    severity: critical
"""
    )
    assert found.problems == ()
    mine = named(found, "cpu.high")
    assert (mine.severity, mine.category, mine.unit) == ("critical", "custom", "1")
    world = World(*found.rules)

    def tick(value: float) -> None:
        readings = {"aimon.cpu.utilization": {(): value}}
        world.at(world.now + 10, *(each for one in found.thresholds for each in one.evidences(readings)))

    for _ in range(10):
        tick(0.9)
    assert world.events == []
    for _ in range(10):
        tick(0.95)
    (event,) = world.events
    assert event.body == "This process: cpu.high is at 95 %."
    assert event.attributes["aimon.alert.value"] == 0.95


def test_an_expression_of_ones_own_over_named_ones() -> None:
    found = read(
        """
expressions:
  waiting: aimon.inference.queue.size
  pressed: waiting * aimon.cpu.utilization
rules:
  starved: {expression: "pressed > 5 and not aimon.cpu.utilization > 1"}
  product: {expression: pressed, on: 4, unit: "{request}"}
"""
    )
    assert found.problems == ()
    readings = {"aimon.inference.queue.size": {M: 10.0}, "aimon.cpu.utilization": {(): 0.6}}
    starved, product = found.thresholds
    assert [(each.identity, each.score, each.value) for each in starved.evidences(readings)] == [
        (M, 1.0, None)
    ]
    assert [(each.identity, each.score, each.value) for each in product.evidences(readings)] == [
        (M, 6.0, 6.0)
    ]
    assert named(found, "starved").is_clear(0.0)
    assert list(starved.evidences({"aimon.cpu.utilization": {(): 0.6}})) == []


def test_where_chooses_among_the_values_of_a_signal() -> None:
    found = read(
        'rules: {p95: {signal: aimon.inference.latency.quantile, on: 500ms, where: {quantile: "0.95"}}}'
    )
    (p95,) = found.thresholds
    readings = {
        "aimon.inference.latency.quantile": {
            (*M, ("quantile", "0.5")): 0.1,
            (*M, ("quantile", "0.95")): 0.7,
        }
    }
    assert [(each.identity, each.score) for each in p95.evidences(readings)] == [(M, 0.7)]
    assert named(found, "p95").on == 0.5


@pytest.mark.parametrize(
    ("op", "on", "met", "clear"),
    [(">", 0.0, 1.0, 0.0), (">=", 5.0, 5.0, 3.4), ("<", 5.0, 4.9, 7.2), ("<=", 5.0, 5.0, 7.2), ("below", 0.0, -1.0, 0.0)],
)  # fmt: skip
def test_operators(op: str, on: float, met: float, clear: float) -> None:
    mine = named(read(f'rules: {{q: {{signal: aimon.inference.queue.size, op: "{op}", on: {on}}}}}'), "q")
    assert mine.is_met(met)
    assert not mine.is_met(clear)
    assert mine.is_clear(clear)
    assert not mine.is_clear(met)
    if op in {">", "<"}:
        assert not mine.is_met(on)


def test_objectives() -> None:
    found = read(
        """
slos:
  error: 99.9%
  e2e: off
  chat-ttft: {sli: ttft, target: 95%, limit: 300ms, model: chat}
"""
    )
    assert found.problems == ()
    assert {each.name: each for each in found.objectives} == {
        "error": Objective("error", "error", 0.999),
        "ttft": Objective("ttft", "ttft", 0.99, 2.0),
        "tpot": Objective("tpot", "tpot", 0.99, 0.2),
        "chat-ttft": Objective("chat-ttft", "ttft", 0.95, 0.3, "chat"),
    }
    names = {rule.name for rule in found.rules}
    assert "slo.e2e.burn_fast" not in names
    # Capped at half of the largest burn rate, 20.
    assert named(found, "slo.chat-ttft.burn_fast").on == pytest.approx(10.0)


def test_code_wins_over_the_environment_and_that_over_the_file() -> None:
    found = parse(
        "slos: {error: 90%, ttft: 90% < 1s, tpot: 90% < 1s}",
        slos="error=91%, ttft=91% < 2s",
        objectives=[Objective("error", "error", 0.92)],
    )
    assert found.problems == ()
    assert [each.target for each in found.objectives] == pytest.approx([0.92, 0.91, 0.9, 0.99])


def test_mistakes_in_the_environment_are_named() -> None:
    found = parse("", slos="errors=99%, ttft, tpot=99%, error=99.5%")
    assert [str(problem) for problem in found.problems] == [
        "the objectives in the environment: unknown indicator 'errors'; "
        "use one of error, ttft, tpot, e2e, by name or as sli.",
        "the objectives in the environment: 'ttft' is no objective; write error=99.9% or ttft=99%<500ms.",
        "the objectives in the environment: tpot is no objective: an objective on tpot needs a latency limit, "
        "such as 500ms; write it like 99% < 500ms.",
    ]


MISTAKES = {
    "an unknown rule": (
        "rules:\n  latency.shfit:\n    on: 3\n",
        ["rules.yaml:2: unknown rule 'latency.shfit'; did you mean latency.shift; a rule of your own needs a "
         "signal or an expression."],
    ),
    "an unknown key": (
        "rules:\n  stall:\n    severty: info\n",
        ["rules.yaml:3: unknown key of the rule stall: 'severty'; did you mean severity."],
    ),
    "an unknown section": ("rule: {}\n", ["rules.yaml:1: unknown key 'rule'; did you mean rules."]),
    "an unknown signal": (
        "rules:\n  x:\n    signal: aimon.cpu.utilisation\n    on: 1\n",
        ["rules.yaml:3: unknown signal 'aimon.cpu.utilisation'; did you mean aimon.cpu.utilization."],
    ),
    "an unknown signal in an expression": (
        "rules:\n  x:\n    expression: aimon.cpu.utilisation > 1\n",
        ["rules.yaml:3: unknown signal 'aimon.cpu.utilisation'; did you mean aimon.cpu.utilization."],
    ),
    "an unknown severity": (
        "rules:\n  stall:\n    severity: page\n",
        ["rules.yaml:3: unknown severity 'page'; known are critical, info, warning."],
    ),
    "an unknown operator": (
        "rules:\n  x:\n    signal: hw.temperature\n    op: '=='\n    on: 80C\n",
        ["rules.yaml:4: unknown operator '=='; known are <, <=, >, >=, above, below."],
    ),
    "a duration for a ratio": (
        "rules:\n  error.ratio:\n    on: 5s\n",
        ["rules.yaml:3: unit mismatch: '5s' is a duration, but on of error.ratio is a ratio; write 90% or 0.9."],
    ),
    "a ratio for a duration": (
        "rules:\n  error.ratio:\n    for: 5%\n",
        ["rules.yaml:3: unit mismatch: '5%' is a ratio, but for of error.ratio is a duration; write 500ms or 5m."],
    ),
    "a hold of a month": (
        "rules:\n  stall:\n    for: 30d\n",
        ["rules.yaml:3: for of stall is 30d; choose a duration from 0s to 86400s."],
    ),
    "a flood of heartbeats": (
        "rules:\n  stall:\n    repeat: 0s\n",
        ["rules.yaml:3: repeat of stall is 0s; choose a duration from 10s to 86400s."],
    ),
    "a signal and an expression": (
        "rules:\n  x:\n    signal: hw.temperature\n    expression: hw.temperature + 1\n    on: 80\n",
        ["rules.yaml:4: the rule x has both a signal and an expression; keep one of them."],
    ),
    "samples that are no number": (
        "rules:\n  error.ratio:\n    samples: many\n",
        ["rules.yaml:3: 'many' is no number of samples for error.ratio; write a whole number."],
    ),
    "an expression with a signal's name": (
        "expressions:\n  hw.temperature: 5\n",
        ["rules.yaml:2: 'hw.temperature' cannot name an expression; use letters, digits and _."],
    ),
    "an objective without a target": (
        "slos:\n  x: {sli: error}\n",
        ["rules.yaml:2: the objective x has no target; add one, such as target: 99%."],
    ),
    "an unknown key of an objective": (
        "slos:\n  x: {sli: error, taget: 99%}\n",
        ["rules.yaml:2: unknown key 'taget'; did you mean target."],
    ),
    "an unknown objective": (
        "slos:\n  latency: off\n",
        ["rules.yaml:2: unknown objective 'latency'; known are e2e, error, tpot, ttft."],
    ),
    "percent without the sign": (
        "rules:\n  error.ratio: {on: 90}\n",
        ["rules.yaml:2: unit mismatch: on of error.ratio is a ratio, so '90' would mean 9000 %; write 90%."],
    ),
    "bytes for a temperature": (
        "rules:\n  hot: {signal: hw.temperature, on: 8GiB}\n",
        ["rules.yaml:2: unit mismatch: '8GiB' is a number of bytes, but on of hot is a temperature in degrees "
         "Celsius; write 85C."],
    ),
    "an unknown unit": (
        "rules:\n  hot: {signal: hw.temperature, on: 350K}\n",
        ["rules.yaml:2: '350K' has the unknown unit K; on of hot is a temperature in degrees Celsius: write 85C."],
    ),
    "another unit than the signal's": (
        "rules:\n  hot: {signal: hw.temperature, unit: s, on: 80}\n",
        ["rules.yaml:2: unit mismatch: hw.temperature is in Cel, not 's'; leave the unit out."],
    ),
    "units that do not compare": (
        "rules:\n  x: {expression: aimon.cpu.utilization > aimon.memory.limit}\n",
        ["rules.yaml:2: unit mismatch in 'aimon.cpu.utilization > aimon.memory.limit': one side is in 1, the "
         "other in By; compare and add values of one unit only."],
    ),
    "no threshold": (
        "rules:\n  x: {signal: hw.temperature}\n",
        ["rules.yaml:2: the rule x has no threshold; add one, such as on: 90%."],
    ),
    "a threshold for a condition": (
        "rules:\n  x: {expression: hw.temperature > 80, on: 1}\n",
        ["rules.yaml:2: a condition takes no on, which its expression says already; leave on out."],
    ),
    "thresholds the wrong way round": (
        "rules:\n  error.ratio:\n    on: 5%\n    off: 9%\n",
        ["rules.yaml:4: the rule error.ratio would fire at 0.05 and be clear at 0.09 already; choose an off that is "
         "below on."],
    ),
    "a burn threshold out of reach": (
        "slos:\n  error: 90%\nrules:\n  slo.error.burn_fast:\n    on: 14.4\n",
        ["rules.yaml:5: unreachable burn threshold: slo.error.burn_fast can never reach 14.4, for with the objective "
         "90% the burn rate is 10 when every request is bad; choose at most 5."],
    ),
    "a rule that exists": (
        "rules:\n  stall: {signal: hw.temperature, on: 80}\n",
        ["rules.yaml:2: there is a rule stall already; give yours another name."],
    ),
    "a name that is none": (
        "rules:\n  'a b': {signal: hw.temperature, on: 80}\n",
        ["rules.yaml:2: 'a b' cannot name a rule; use letters, digits, _ and dots."],
    ),
    "neither true nor false": (
        "rules:\n  stall: {enabled: perhaps}\n",
        ["rules.yaml:2: enabled of stall is neither true nor false; write true or false."],
    ),
    "expressions in a circle": (
        "expressions:\n  a: b + 1\n  b: a * 2\nrules:\n  x: {expression: a > 1}\n",
        ["rules.yaml:2: expressions name one another in a circle: a -> b -> a; let one of them do without the others.",
         "rules.yaml:3: expressions name one another in a circle: b -> a -> b; let one of them do without the others.",
         "rules.yaml:5: expressions name one another in a circle: a -> b -> a; let one of them do without the others."],
    ),
    "an expression that is code": (
        "rules:\n  x: {expression: \"__import__('os').system('true') > 0\"}\n",
        ["rules.yaml:2: \"__import__('os').system('true')\" is not allowed in an expression; allowed are numbers, "
         "signals, + - * /, comparisons, and, or, not, min, max and abs."],
    ),
    "an expression that is none": (
        "rules:\n  x: {expression: hw.temperature >}\n",
        ["rules.yaml:2: 'hw.temperature >' is no expression; allowed are numbers, signals, + - * /, comparisons, "
         "and, or, not, min, max and abs."],
    ),
    "rules that inhibit one another": (
        "rules:\n  stall:\n    inhibited_by: latency.*\n",
        None,
    ),
    "an objective out of range": (
        "slos:\n  error: 100%\n",
        ["rules.yaml:2: error is no objective: the target must lie between 0 and 1 (or 0 % and 100 %), not be 1; "
         "write it like 99.9%."],
    ),
    "an objective without a limit": (
        "slos:\n  ttft: 99%\n",
        ["rules.yaml:2: ttft is no objective: an objective on ttft needs a latency limit, such as 500ms; "
         "write it like 99% < 500ms."],
    ),
    "a list where rules belong": ("rules: [a]\n", ["rules.yaml:1: rules is not a mapping; write cpu.high: "
         "{signal: aimon.cpu.utilization, on: 90%, for: 5m}."]),
    "a key that is written twice": (
        "rules:\n  stall: {severity: info}\n  stall: {severity: warning}\n",
        ["rules.yaml:3: 'stall' is written twice, so the rest of the file is not used; keep one of them."],
    ),
    "malformed YAML": (
        "rules:\n  stall: {severity: info\n",
        ["rules.yaml:3: malformed YAML: expected ',' or '}', but got '<stream end>', so the rest of the file is not "
         "used; correct it there."],
    ),
    "a tab": (
        "rules:\n\tstall: off\n",
        ["rules.yaml:2: malformed YAML: found character '\\t' that cannot start any token, so the rest of the file is "
         "not used; correct it there."],
    ),
    "cyclic YAML": (
        "rules: &all\n  stall: *all\n",
        ["rules.yaml:1: cyclic YAML: a value contains itself, so the rest of the file is not used; remove the alias "
         "that refers to what it is part of."],
    ),
    "an unknown alias": (
        "rules:\n  stall: *all\n",
        ["rules.yaml:2: malformed YAML: found undefined alias 'all', so the rest of the file is not used; correct it "
         "there."],
    ),
    "an object": (
        "rules:\n  stall: !!python/object/apply:os.system ['true']\n",
        ["rules.yaml:2: malformed YAML: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed, so the "
         "rest of the file is not used; write plain values."],
    ),
    "a control character": (
        "rules:\n  stall: \x07\n",
        ["rules.yaml:2: malformed YAML: special characters are not allowed, so the rest of the file is not used; "
         "correct it there."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", [name for name, (_, said) in MISTAKES.items() if said is not None])
def test_a_mistake_is_named_with_file_and_line(mistake: str) -> None:
    text, said = MISTAKES[mistake]
    assert problems(text) == said


def test_rules_that_would_inhibit_one_another_are_named() -> None:
    (problem,) = problems(MISTAKES["rules that inhibit one another"][0])
    assert problem.startswith("rules.yaml:3: alerts would inhibit one another in a circle: ")
    assert problem.endswith("inhibited_by of stall is not used; let one of them go.")


def test_the_other_rules_of_the_file_run() -> None:
    found = read(
        """
slos: {error: 200%, ttft: 99% < 1s}
rules:
  nonsense: {on: 1}
  hot: {signal: hw.temperature, on: 80C}
  stall: {severity: pagee}
  kv.pressure: off
"""
    )
    assert [problem.line for problem in found.problems] == [2, 4, 6]
    assert named(found, "hot").on == 80.0
    assert named(found, "stall").severity == "critical"
    assert "kv.pressure" not in {rule.name for rule in found.rules}
    assert next(each for each in found.objectives if each.name == "ttft").limit == 1.0
    assert next(each for each in found.objectives if each.name == "error") == DEFAULT_OBJECTIVES[0]


def test_what_stands_before_malformed_yaml_is_used() -> None:
    found = read("rules: {stall: off}\n---\nrules: {\n")
    assert len(found.problems) == 1
    assert "stall" not in {rule.name for rule in found.rules}


def test_aliases_of_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (problem,) = problems("\n".join(lines))
    assert "more than 20000 values" in problem


def test_a_huge_file_is_not_read() -> None:
    (problem,) = problems("#" * (located.LARGEST + 1))
    assert "larger than 1 MiB" in problem


def test_deep_nesting_is_no_crash() -> None:
    (problem,) = problems("[" * 5000)
    assert "malformed YAML" in problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    found = load(tmp_path / "none.yaml")
    assert found.rules == RULES
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path}/none.yaml: the file of alert rules cannot be read (FileNotFoundError), the default rules run; "
        "check that it exists, that the service may read it, and that it is UTF-8."
    ]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  stall: off\n  nope: off\n")
    found = load(path)
    assert len(found.rules) == len(RULES) - 1
    assert [(problem.file, problem.line) for problem in found.problems] == [(str(path), 3)]


def test_without_pyyaml_the_default_rules_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert problems("rules: {stall: off}") == [
        "rules.yaml: reading a file of alert rules needs PyYAML; install otel-aimon[file-config]."
    ]


def test_each_problem_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "otel_aimon"):
        warn([Problem("rules.yaml", 3, "something is wrong", "put it right")])
    assert caplog.messages == ["otel-aimon: rules.yaml:3: something is wrong; put it right."]


def test_the_known_signals_are_those_that_are_exported() -> None:
    assert SIGNALS["aimon.inference.error.ratio"] == "1"
    assert "aimon.inference.duration" not in SIGNALS


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.sampled_from(
            ["rules:", "  stall:", "    on: 5", "slos: {error: 9}", "expressions: {a: a}", "- x", "---", "? [", "&a *a",
             "  x: {expression: a > 1}", "    for: [1]", "    where: 3", "rules: {x: {signal: {}}}", "apiVersion: openslo/v1",
             "kind: SLO", "  error: {target: }", "rules: {stall: null}", "rules: {'': {signal: hw.temperature, on: }}"]
        ) | st.text(max_size=8),
        max_size=8,
    ).map("\n".join)
)  # fmt: skip
def test_no_file_does_any_harm(text: str) -> None:
    found = read(text)
    assert len(found.rules) >= len(RULES) - 10
    for rule in found.rules:
        assert math.isfinite(rule.on)
