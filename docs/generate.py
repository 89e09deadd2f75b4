"""Writes the tables that come from the code: frameworks, settings, signals.

    python docs/generate.py [--check]

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. With ``--check`` nothing is written,
and the exit status is 1 when a page is not what the code says.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

from otel_aimon import semconv
from otel_aimon.alerts.rules import RULES, Rule
from otel_aimon.config import ENV_PREFIX, Settings
from otel_aimon.instrumentation.registry import FRAMEWORKS, Framework

ROOT = Path(__file__).resolve().parent.parent


def frameworks_table(prefix: str) -> str:
    """The registry, with links to the pages."""
    lines = ["| framework | what becomes a request | from version | entry point |", "|---|---|---|---|"]
    lines += [
        f"| [{each.title}]({prefix}frameworks/{each.name}.md){_mark(each)} | {each.records} | {each.oldest} | `aimon_{each.name}` |"
        for each in FRAMEWORKS
    ]
    return "\n".join([*lines, "", *checked_lines(prefix)])


def _mark(framework: Framework) -> str:
    return r" \*" if framework.checked else ""


def checked_lines(prefix: str) -> list[str]:
    """What was run of the frameworks that do not run under the tests as they do for their users."""
    return [
        r"\* These need hardware that the tests do not have, and are written to their published interfaces. What is run:",
        "",
        *(
            f"* [{each.title}]({prefix}frameworks/{each.name}.md): {each.checked}."
            for each in FRAMEWORKS
            if each.checked
        ),
    ]


def settings_table() -> str:
    """Every setting."""
    lines = ["| setting | in the environment | default | accepted | what it does |", "|---|---|---|---|---|"]
    for spec in fields(Settings):
        accepts = spec.metadata["accepts"]
        default = "empty" if spec.default == () else str(spec.default).lower()
        lines.append(
            f"| `{spec.name}` | `{ENV_PREFIX}{spec.name.upper()}` | `{default}` | {accepts.what} | {accepts.about} |"
        )
    return "\n".join(lines)


def metrics_table() -> str:
    """Every metric."""
    lines = ["| metric | instrument | unit | attributes | meaning |", "|---|---|---|---|---|"]
    for metric in semconv.METRICS:
        attributes = ", ".join(f"`{name}`" for name in metric.attributes) or "none"
        kind = metric.kind.replace("_", " ")
        lines.append(f"| `{metric.name}` | {kind} | `{metric.unit}` | {attributes} | {metric.description} |")
    return "\n".join(lines)


_PROMETHEUS_UNITS = {
    "s": "seconds",
    "By": "bytes",
    "J": "joules",
    "W": "watts",
    "Hz": "hertz",
    "Cel": "celsius",
    "By/s": "bytes_per_second",
    "{request}/s": "per_second",
}


def prometheus_name(metric: semconv.Metric) -> str:
    """The name that Prometheus gives a metric which it takes over OTLP."""
    name = metric.name.replace(".", "_")
    unit = _PROMETHEUS_UNITS.get(metric.unit, "")
    if metric.unit == "1" and metric.kind.endswith("gauge"):
        unit = "ratio"
    if unit and not name.endswith(unit):
        name += f"_{unit}"
    monotonic = metric.kind in {"counter", "observable_counter"}
    return f"{name}_total" if monotonic else name


def prometheus_table() -> str:
    """Every metric in Prometheus, with its labels."""
    lines = ["| OTLP | Prometheus | labels |", "|---|---|---|"]
    for metric in semconv.METRICS:
        labels = " ".join(f"`{name.replace('.', '_')}`" for name in metric.attributes) or "none"
        lines.append(f"| `{metric.name}` | `{prometheus_name(metric)}` | {labels} |")
    return "\n".join(lines)


def rules_table() -> str:
    """Every alert rule, its numbers and why it is there."""
    lines = [
        "| rule | signal | fires | clears | for | severity | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        fires, clears = _conditions(rule)
        lines.append(
            f"| `{rule.name}` | {rule.signal} | {fires} | {clears} "
            f"| {_hold(rule)} | {rule.severity} | {rule.rationale} |"
        )
    return "\n".join(lines)


def _conditions(rule: Rule) -> tuple[str, str]:
    if rule.above and 0 < rule.on == rule.off < 1e-6:
        return "> 0", "0"
    fires, clears = ("≥", "<") if rule.above else ("≤", ">")
    return f"{fires} {_threshold(rule, rule.on)}", f"{clears} {_threshold(rule, rule.off)}"


def _threshold(rule: Rule, value: float) -> str:
    if rule.scale == "1":
        return f"{value * 100:.3g} %"
    if rule.scale == "s":
        return f"{value / 60:.3g} min"
    return f"{value:.3g} {rule.scale}".strip().replace("{", "").replace("}", "")


def _hold(rule: Rule) -> str:
    if rule.hold:
        return f"{rule.hold:.0f} s"
    return "at once" if rule.ticks == 1 else f"{rule.ticks_needed} evaluations"


def compatibility_table() -> str:
    """The versions with which the tests of each framework were run."""
    rows = json.loads((ROOT / "docs" / "compatibility.json").read_text(encoding="utf-8"))
    titles = {each.name: each for each in FRAMEWORKS}
    rows = [row for row in rows if row["framework"] in titles]
    order = {each.name: place for place, each in enumerate(FRAMEWORKS)}
    rows.sort(key=lambda row: (order[row["framework"]], _version(row["version"]), row["python"]))
    lines = ["| framework | version | Python | tests passed | failed |", "|---|---|---|---:|---:|"]
    lines += [
        f"| [{titles[row['framework']].title}](frameworks/{row['framework']}.md){_mark(titles[row['framework']])} | {row['version']} | {row['python']} "
        f"| {row['passed']} | {row['failed']} |"
        for row in rows
    ]
    return "\n".join([*lines, "", *checked_lines("")])


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


PAGES: dict[str, dict[str, str]] = {
    "README.md": {"frameworks": frameworks_table("docs/")},
    "docs/configuration.md": {"settings": settings_table()},
    "docs/compatibility.md": {"compatibility": compatibility_table()},
    "docs/alerts.md": {"rules": rules_table()},
    "docs/signals.md": {"metrics": metrics_table()},
    "docs/metrics-in-prometheus.md": {"metrics": prometheus_table()},
}


def with_tables(page: str, tables: dict[str, str]) -> str:
    """``page`` with each table put between its markers.

    Raises:
        ValueError: The page lacks a marker.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in page or end not in page:
            raise ValueError(f"the page has no place for {name}: it needs {begin} and {end}")
        head, rest = page.split(begin, 1)
        tail = rest.split(end, 1)[1]
        page = f"{head}{begin}\n{table}\n{end}{tail}"
    return page


def main() -> int:
    """Write the pages, or check them."""
    stale = []
    for name, tables in PAGES.items():
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        fresh = with_tables(page, tables)
        if fresh != page:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(fresh, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not what the code says; run `make docs`' if '--check' in sys.argv else 'written'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
