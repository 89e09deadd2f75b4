"""How soon alerts tell of faults, which they miss, and how often they are wrong.

    python benchmarks/alerting.py [--bench FOLDER] [--seeds 0-23] [--only normal] [--json] [--write docs/alerting-benchmark.md]

A synthetic service with labelled faults (``alertbench.py`` in FOLDER) is fed, tick by tick, to what a process runs:
its detectors, objectives, rules, state machine, grouping and inhibition, under a clock of the benchmark's. What
counts is the event that would have been emitted, when it would have been: those that start to fire, of severity
warning or critical. Beside it stand baselines, written from their formulas.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from otel_aimon import semconv  # noqa: E402
from otel_aimon.alerts.alerting import Alerting  # noqa: E402
from otel_aimon.alerts.grouping import GROUP_WAIT  # noqa: E402
from otel_aimon.alerts.rules import RULES  # noqa: E402
from otel_aimon.analysis.degradation import Degradation  # noqa: E402
from otel_aimon.analysis.slo import DEFAULT_OBJECTIVES, SloTracker  # noqa: E402
from otel_aimon.analysis.tick import TICK_SECONDS, Tick  # noqa: E402

DEFAULT_BENCH = ROOT.parent / "shared" / "alertbench"
MODES = {"normal": False, "hard": True}
PRODUCT = "otel-aimon"
BENIGN = "mixshift"
GROUP_TICKS = 60
"""Edges within ten minutes of each other are one group, as in the benchmark's own score."""


def load(folder):
    """The benchmark's module."""
    path = Path(folder) / "alertbench.py"
    if not path.is_file():
        sys.exit(f"{path} is missing: name the folder of alertbench.py with --bench")
    if "alertbench" not in sys.modules:
        spec = importlib.util.spec_from_file_location("alertbench", path)
        module = sys.modules["alertbench"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["alertbench"]


def otel_aimon(data):
    """What the product pages for: (tick, rule) of each event that starts to fire."""
    now = 0.0
    alerting = Alerting(RULES, [], clock=lambda: now, wall=lambda: int(now * 1e9))
    degradation = Degradation()
    objective = next(each for each in DEFAULT_OBJECTIVES if each.sli == "error")
    objectives = SloTracker([objective])
    names = [((semconv.AIMON_MODEL_NAME, f"model-{number}"),) for number in range(len(data.count))]
    columns = [each.tolist() for each in (data.count, data.errors, data.p95, data.p95_per_token, data.log_sd)]
    pages = []
    for tick in range(data.ticks):
        now = tick * TICK_SECONDS
        ticks = {}
        for number, name in enumerate(names):
            count, errors, p95, per_token, log_sd = (column[number][tick] for column in columns)
            if count:
                ticks[name] = Tick(count, errors, p95, per_token, log_sd, tokens=p95 / per_token)
                objectives.add(objective, name, count - errors, errors, now)
        events = alerting.tick(degradation.tick(now, ticks) + objectives.evidences(now))
        # A process looks every second, so that a group waits no longer than it must.
        now += GROUP_WAIT
        events += alerting.tick()
        pages += [(tick, event.rule) for event in events if is_page(event)]
    return pages


def is_page(event):
    """Whether it wakes somebody: it starts to fire, and is more than information."""
    starts = event.state == "firing" and not event.attributes[semconv.ALERT_HEARTBEAT]
    return starts and event.severity != "info"


def monitors():
    """Name → monitor; the baselines need numpy, as the benchmark's data does."""
    from alerting_baselines import BASELINES

    return {PRODUCT: otel_aimon, **BASELINES}


def run(bench, name, mode, seed):
    """The score of one monitor for one seed."""
    alertbench = load(bench)
    data = alertbench.generate(seed, hard=MODES[mode])
    edges = monitors()[name](data)
    found = alertbench.score(edges, data)
    found["groups_per_fault"] = groups_per_fault([tick for tick, _ in edges if tick >= alertbench.DAY], data)
    return found


def groups_per_fault(ticks, data):
    """Groups of edges for each fault that was told, on average."""
    ticks = sorted(ticks)
    starts = [tick for before, tick in zip([-GROUP_TICKS - 1, *ticks], ticks) if tick - before > GROUP_TICKS]
    counts = [
        sum(start <= tick <= end + 180 for tick in starts)
        for kind, start, end in data.faults
        if kind != BENIGN
    ]
    told = [count for count in counts if count]
    return statistics.fmean(told) if told else 0.0


def mean_of(scores):
    """Scores of several seeds, averaged; a kind of fault over the seeds in which there was one."""
    found = {}
    for key in scores[0]:
        values = [score[key] for score in scores]
        if isinstance(values[0], dict):
            kinds = sorted({kind for value in values for kind in value})
            found[key] = {
                kind: statistics.fmean(value[kind] for value in values if kind in value) for kind in kinds
            }
        else:
            found[key] = statistics.fmean(values)
    return found


def all_scores(bench, seeds, modes, names):
    """Mode → monitor → averaged score."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        running = {
            (mode, name): [pool.submit(run, bench, name, mode, seed) for seed in seeds]
            for mode in modes
            for name in names
        }
        return {
            mode: {name: mean_of([each.result() for each in running[mode, name]]) for name in names}
            for mode in modes
        }


def cell(score, kind):
    """Such as ``.97 (120 s)``."""
    recall = score["recall"].get(kind)
    if recall is None:
        return ""
    delay = score["delay_s"].get(kind)
    return f"{recall:.2f}" if delay is None or kind == BENIGN else f"{recall:.2f} ({delay:.0f} s)"


def table(scores, seeds):
    """Markdown: recall and median delay by kind of fault."""
    kinds = sorted({kind for each in scores.values() for score in each.values() for kind in score["recall"]})
    kinds = [kind for kind in kinds if kind != BENIGN]
    lines = [f"{seeds} seeds of 14 days each; recall and, in parentheses, median delay.", ""]
    for mode, by_name in scores.items():
        head = [mode, "false groups a day", "groups a fault", *kinds, "pages for longer prompts"]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, score in by_name.items():
            cells = [
                f"**{name}**" if name == PRODUCT else name,
                f"{score['false_groups_per_day']:.2f}",
                f"{score['groups_per_fault']:.2f}",
                *(cell(score, kind) for kind in kinds),
                cell(score, BENIGN),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def write(path, text):
    """Replace what stands between the markers in a page."""
    page = Path(path).read_text("utf-8")
    begin, end = "<!-- results -->\n", "<!-- end of results -->"
    before, rest = page.split(begin, 1)
    Path(path).write_text(before + begin + text.rstrip() + "\n" + end + rest.split(end, 1)[1], "utf-8")


def seeds_of(text):
    """Numbers of a text such as ``0-3,8``."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", default=str(DEFAULT_BENCH), help="folder of alertbench.py")
    parser.add_argument("--seeds", default="0-23", type=seeds_of, help="such as 0-23 or 1,5")
    parser.add_argument("--only", choices=MODES, help="one of the two modes")
    parser.add_argument("--json", action="store_true", help="the product's scores alone, as JSON")
    parser.add_argument("--write", metavar="PAGE", help="put the table into a page")
    options = parser.parse_args()
    load(options.bench)
    names = [PRODUCT] if options.json else list(monitors())
    modes = [options.only] if options.only else list(MODES)
    scores = all_scores(options.bench, options.seeds, modes, names)
    if options.json:
        print(json.dumps({mode: by_name[PRODUCT] for mode, by_name in scores.items()}, indent=1))
        return
    text = table(scores, len(options.seeds))
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
