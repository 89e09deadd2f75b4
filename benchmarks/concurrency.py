"""How good the concurrency limit and hint are, on servers that are simulated so that the best is known.

    python benchmarks/concurrency.py [--sim FOLDER] [--only F1,L1] [--seeds N] [--json] [--write FILE]

FOLDER holds the simulator: engine.py runs a server, scenarios.py defines servers and loads, score.py and
passive.py say what a result is worth. A score is the goodput, completions per second that kept the SLO, as a
share of that under the best fixed limit, which a sweep found for each phase of a scenario.

Beside the product stand limiters as they were published (concurrency_baselines.py). Targets: enforced, mean
at least 0.98 on F* and 0.965 on L*, none below 0.93; where there is room for all, at most 2 % shed on F* and
0.3 % on L*; the hint that is only published, at least 0.92 in every situation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIMULATOR = HERE.parent.parent / "shared" / "sim"

PRODUCT = "concurrency_product:EnforcedLimit"
HINT = "concurrency_product:PublishedHint"
ENFORCED = {
    "otel-aimon": PRODUCT,
    "otel-aimon, blind": "concurrency_product:BlindLimit",
    "AIMD": "concurrency_baselines:AIMD",
    "Vegas": "concurrency_baselines:Vegas",
    "Gradient2": "concurrency_baselines:Gradient2",
    "Envoy gradient": "concurrency_baselines:EnvoyGradient",
}
PASSIVE = {
    "otel-aimon": HINT,
    **{name: path for name, path in ENFORCED.items() if path.startswith("concurrency_baselines")},
}
KINDS = {"fifo": "F", "llm": "L"}
TARGETS = {"F": 0.98, "L": 0.965}
LEAST = 0.93
MOST_SHED = {"F": 0.02, "L": 0.003}
LEAST_PASSIVE = 0.92


class Simulator:
    """The modules of a simulator's folder."""

    def __init__(self, folder):
        sys.path[:0] = [str(folder), str(HERE), str(HERE.parent)]
        self.score = importlib.import_module("score")
        self.passive = importlib.import_module("passive")
        self.scenarios = importlib.import_module("scenarios").S

    def kind(self, key):
        """F for a queue before some servers, L for a language model."""
        return KINDS[self.scenarios[key]["kind"]]

    def keys(self, only):
        known = list(self.scenarios) + list(self.passive.SITUATIONS)
        unknown = set(only) - set(known)
        if unknown:
            raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return [key for key in known if not only or key in only]

    def enforced(self, controller, key, seeds):
        """Goodput as a share of the best, and the share of arrivals that were shed."""
        runs = [self.score.play((controller, key, seed)) for seed in range(seeds)]
        spans = [end - start for start, end in self.scenarios[key]["phases"]]
        best = [max(phase.values()) for phase in self.score.SWEEP[key]]
        goodput = [statistics.mean(phases[i][0] for _, phases, _ in runs) for i in range(len(spans))]
        share = sum(map(_product, goodput, spans)) / sum(map(_product, best, spans))
        return share, statistics.mean(shed for _, _, shed in runs)

    def hinted(self, controller, key, seeds):
        """Goodput that the hinted limit would give under overload, as a share of the best."""
        _, (sweep, phase), _ = self.passive.SITUATIONS[key]
        curve = sorted((float(limit), goodput) for limit, goodput in self.passive.SWEEP[sweep][phase].items())
        limits, goodputs = [limit for limit, _ in curve], [goodput for _, goodput in curve]
        hints = []
        for seed in range(seeds):
            _, trace = self.passive.play((controller, key, seed))
            hints += trace[len(trace) // 2 :]
        mean = statistics.mean(self.passive.interpolate(hint, limits, goodputs) for hint in hints)
        return mean / max(goodputs)


def _product(a, b):
    return a * b


def measure(simulator, keys, seeds, names):
    """By controller: the shares and sheds of the scenarios, and the shares of the situations."""
    results = {}
    for name in names:
        shares, shed, passive = {}, {}, {}
        for key in keys:
            if key in simulator.scenarios:
                shares[key], shed[key] = simulator.enforced(ENFORCED[name], key, seeds)
            elif name in PASSIVE:
                passive[key] = simulator.hinted(PASSIVE[name], key, seeds)
        results[name] = {"enforced": shares, "shed": shed, "passive": passive}
    return results


def overloaded(simulator, shares, kind=""):
    """The shares of the scenarios that have too much load, of one kind or all."""
    return [
        share
        for key, share in shares.items()
        if not simulator.scenarios[key].get("under") and kind in ("", simulator.kind(key))
    ]


def failures(simulator, result):
    """What misses a target, in words."""
    found = []
    for kind, target in TARGETS.items():
        shares = overloaded(simulator, result["enforced"], kind)
        if shares and statistics.mean(shares) < target:
            found.append(f"mean {kind} {statistics.mean(shares):.3f} < {target}")
    found += [
        f"{key} {share:.3f} < {LEAST}"
        for key, share in result["enforced"].items()
        if share < LEAST and not simulator.scenarios[key].get("under")
    ]
    found += [
        f"{key} shed {shed:.1%} > {MOST_SHED[simulator.kind(key)]:.1%}"
        for key, shed in result["shed"].items()
        if simulator.scenarios[key].get("under") and shed > MOST_SHED[simulator.kind(key)]
    ]
    found += [
        f"{key} {share:.3f} < {LEAST_PASSIVE}"
        for key, share in result["passive"].items()
        if share < LEAST_PASSIVE
    ]
    return found


def table(simulator, results):
    """Everything, in Markdown."""
    names = list(results)
    first = results[names[0]]
    lines = []
    if first["enforced"]:
        lines += [
            "Enforced: goodput as a share of that under the best fixed limit of each phase.",
            "",
            _row("scenario", *names),
            _row("---", *["---:"] * len(names)),
        ]
        for key, share in first["enforced"].items():
            scenario = simulator.scenarios[key]
            values = [results[name]["enforced"][key] for name in names]
            if scenario.get("under"):
                sheds = [f"{results[name]['shed'][key]:.1%}" for name in names]
                lines.append(_row(f"{key} shed: {scenario['desc']}", *sheds))
            else:
                lines.append(_row(f"{key}: {scenario['desc']}", *[f"{value:.3f}" for value in values]))
        for kind in TARGETS:
            means = [overloaded(simulator, results[name]["enforced"], kind) for name in names]
            if means[0]:
                lines.append(
                    _row(f"**mean {kind}**", *[f"{statistics.mean(shares):.3f}" for shares in means])
                )
        every = [overloaded(simulator, results[name]["enforced"]) for name in names]
        if every[0]:
            lines.append(_row("**least**", *[f"{min(shares):.3f}" for shares in every]))
    if first["passive"]:
        judged = [name for name in names if results[name]["passive"]]
        lines += [
            "",
            "Published only: goodput that the hinted limit would give under overload, as a share of the best.",
            "",
            _row("situation", *judged),
            _row("---", *["---:"] * len(judged)),
        ]
        for key in first["passive"]:
            text = simulator.passive.SITUATIONS[key][2]
            shares = [f"{results[name]['passive'][key]:.3f}" for name in judged]
            lines.append(_row(text, *shares))
    return "\n".join(lines)


def _row(*cells):
    return "| " + " | ".join(cells) + " |"


def rounded(result):
    return {part: {key: round(value, 4) for key, value in values.items()} for part, values in result.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sim", type=Path, default=SIMULATOR, help="folder of the simulator")
    parser.add_argument("--only", default="", help="scenarios and situations, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--json", action="store_true", help="print the product's results as JSON, and run no baseline"
    )
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file")
    args = parser.parse_args()
    if not (args.sim / "engine.py").is_file():
        raise SystemExit(f"no simulator in {args.sim}; give its folder with --sim")
    simulator = Simulator(args.sim.resolve())
    keys = simulator.keys([key for key in args.only.split(",") if key])
    names = ["otel-aimon"] if args.json else list(ENFORCED)
    results = measure(simulator, keys, args.seeds, names)
    product = results["otel-aimon"]
    missed = failures(simulator, product)
    if args.json:
        print(json.dumps(rounded(product), indent=1))
    else:
        print(table(simulator, results))
        print("\n" + ("Missed: " + "; ".join(missed) if missed else "All targets are met."))
    if args.write:
        write(args.write, table(simulator, results), args.seeds)
    return 1 if missed else 0


MARKS = ("<!-- table -->", "<!-- end of table -->")


def write(path, text, seeds):
    """Put the table between the marks of a Markdown file."""
    whole = path.read_text(encoding="utf-8")
    before, rest = whole.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    where = f"{seeds} seeds, Python {platform.python_version()}."
    path.write_text(f"{before}{MARKS[0]}\n{text}\n\n{where}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
