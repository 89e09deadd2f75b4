"""How well anomalies are found in recorded series, scored by the rules of the Numenta Anomaly Benchmark.

    python benchmarks/anomaly.py [--data FOLDER] [--only NAME ...] [--json] [--scores FOLDER]

The corpus is a folder of folders of ``timestamp,value`` files, with ``windows.json``: the labelled windows by file.
Every detector sees each file once, value by value, with nothing but the time and the value, and with the same
parameters for all files.

The score is that of A. Lavin and S. Ahmad, "Evaluating real-time anomaly detection algorithms - the Numenta
Anomaly Benchmark", ICMLA 2015: the first detection within a window earns up to 1, the earlier the more; each
detection outside of windows costs; a window without any costs; one threshold for all files, the best on the whole
corpus; nothing counts during the first 15 % of a file; and the sum is 0 for who detects nothing, and 100 for who
detects every window at once and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections import deque
from datetime import datetime, timezone
from math import exp, inf, log10, sqrt
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from otel_aimon.analysis.anomaly import AnomalyDetector  # noqa: E402
from otel_aimon.analysis.spot import TwoSidedSpot  # noqa: E402

DEFAULT_DATA = ROOT.parent / "shared" / "data" / "nab"
PRODUCT = "otel-aimon"
PROBATION_SHARE = 0.15
PROBATION_ROWS = 5000
"""Longer files have no longer a probation than one of so many rows."""


class Weights(NamedTuple):
    """What a profile gives for a true detection, and takes for a false one and for a missed window."""

    found: float
    false: float
    missed: float


PROFILES = {
    "standard": Weights(1.0, 0.11, 1.0),
    "reward_low_FP": Weights(1.0, 0.22, 1.0),
    "reward_low_FN": Weights(1.0, 0.11, 2.0),
}

PUBLISHED = {
    "ARTime": (74.9, 65.2, 80.4),
    "Numenta HTM": (70.1, 63.2, 74.3),
    "CAD OSE": (69.9, 67.0, 73.2),
    "earthgecko Skyline": (58.2, 46.2, 63.9),
    "KNN CAD": (58.0, 43.4, 64.8),
    "Relative entropy": (54.6, 47.6, 58.8),
    "Random cut forest": (51.7, 38.4, 59.7),
    "Twitter ADVec": (47.1, 33.6, 53.5),
    "Windowed Gaussian": (39.6, 20.9, 47.4),
    "Etsy Skyline": (35.7, 27.1, 44.5),
    "Bayesian change point": (17.7, 3.2, 32.2),
    "EXPoSE": (16.4, 3.2, 26.9),
    "Random": (11.0, 1.2, 19.5),
    "Null": (0.0, 0.0, 0.0),
}
"""Of the whole corpus, 58 files: most of them are not here, so that these are no rows of the same table."""


class Series(NamedTuple):
    """One file: its name within the corpus, its rows, and its windows as (first, last) row."""

    name: str
    stamps: list[str]
    times: list[float]
    values: list[float]
    windows: list[tuple[int, int]]


def seconds(stamp):
    """A time stamp of the corpus, as seconds since 1970."""
    return datetime.fromisoformat(stamp).replace(tzinfo=timezone.utc).timestamp()


def load(folder):
    """Every file of the corpus in a folder, by name."""
    windows = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
    corpus = []
    for path in sorted(folder.glob("*/*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        name = path.relative_to(folder).as_posix()
        stamps = [row["timestamp"] for row in rows]
        times = [seconds(stamp) for stamp in stamps]
        labelled = [tuple(times.index(seconds(edge)) for edge in window) for window in windows.get(name, [])]
        corpus.append(Series(name, stamps, times, [float(row["value"]) for row in rows], labelled))
    return corpus


def sigmoid(position):
    """What a detection is worth at a position relative to a window: -1 its start, 0 its end, beyond 0 after it."""
    return -1.0 if position >= 3.0 else 2.0 / (1.0 + exp(5.0 * position)) - 1.0


def probation(rows):
    """Rows at the start of a file that do not count."""
    return int(min(PROBATION_SHARE * rows, PROBATION_SHARE * PROBATION_ROWS))


def worth(series):
    """For each row that counts: (row, window or None, what a detection there is worth before weights)."""
    result, previous = [], None
    windows = iter([*enumerate(series.windows), (None, None)])
    number, window = next(windows)
    for row in range(len(series.times)):
        if window is not None and row > window[1]:
            previous = window
            number, window = next(windows)
        inside = window is not None and row >= window[0]
        if row < probation(len(series.times)):
            continue
        if inside:
            width = window[1] - window[0] + 1
            result.append((row, number, sigmoid(-(window[1] - row + 1) / width) / sigmoid(-1.0)))
        elif previous is None:
            result.append((row, None, -1.0))
        else:
            result.append((row, None, sigmoid((row - previous[1]) / (previous[1] - previous[0]))))
    return result


class Outcome(NamedTuple):
    """What a detector reaches on a set of files."""

    score: float
    threshold: float


def points(corpus, scores):
    """Every row that counts with a score, the highest score first: (score, (file, window), worth)."""
    result = []
    for series in corpus:
        values = scores[series.name]
        for row, window, value in worth(series):
            key = None if window is None else (series.name, window)
            result.append((values[row], key, value))
    result.sort(key=lambda point: -point[0])
    return result


def sweep(ranked, windows, weights):
    """Raw score at every threshold, as (threshold, score): the thresholds are the scores that occur."""
    best = {}
    total = -weights.missed * windows
    current, result = inf, []
    for score, window, value in ranked:
        if score != current:
            result.append((current, total))
            current = score
        if window is None:
            total += weights.false * value
        else:
            before = best.get(window, -weights.missed)
            best[window] = max(before, weights.found * value)
            total += best[window] - before
    result.append((current, total))
    return result


def normalised(raw, windows, weights):
    """0 for who detects nothing, 100 for who is perfect."""
    null = -weights.missed * windows
    return 100.0 * (raw - null) / (weights.found * windows - null)


def evaluate(corpus, scores, weights, threshold=None):
    """Score on some files, with the best threshold for them or with a given one.

    Args:
        corpus: Files.
        scores: By file, one for every row.
        weights: Of the profile.
        threshold: Rows that score as much or more are detections.

    Returns:
        The outcome.
    """
    windows = sum(len(series.windows) for series in corpus)
    swept = sweep(points(corpus, scores), windows, weights)
    if threshold is None:
        threshold, raw = max(swept, key=lambda each: each[1])
    else:
        raw = [total for at, total in swept if at >= threshold][-1]
    return Outcome(normalised(raw, windows, weights) if windows else raw, threshold)


def across_halves(corpus, scores, weights):
    """Score with the threshold that is best for every other file, each half by the other's.

    Args:
        corpus: Files.
        scores: By file.
        weights: Of the profile.

    Returns:
        The score of both halves together.
    """
    halves = corpus[::2], corpus[1::2]
    windows = [sum(len(series.windows) for series in half) for half in halves]
    total = 0.0
    for number, half in enumerate(halves):
        learned = evaluate(halves[1 - number], scores, weights).threshold
        total += windows[number] * evaluate(half, scores, weights, learned).score
    return total / sum(windows)


def from_product():
    """Ours."""
    detector = AnomalyDetector()
    return lambda time, value: detector.update(time, value) or 0.0


def from_null():
    """Never detects anything."""
    return lambda time, value: 0.5


def from_random():
    """Does not look."""
    generator = random.Random(42)
    return lambda time, value: generator.random()


def from_ewma():
    """Exponentially weighted mean and variance: the deviation in standard deviations."""
    mean, variance, pace = None, 0.0, 0.005

    def update(time, value):
        nonlocal mean, variance
        if mean is None:
            mean = value
        deviation = value - mean
        z = abs(deviation) / sqrt(variance) if variance > 0.0 else 0.0
        mean += pace * deviation
        variance = (1.0 - pace) * (variance + pace * deviation * deviation)
        return z / (1.0 + z)

    return update


def from_spot():
    """Tail probability of the value alone (biSPOT)."""
    spot = TwoSidedSpot()
    return lambda time, value: min(1.0, -log10(max(spot.update(value), 1e-20)) / 20.0)


def from_mad():
    """Distance from the median of the last 300 values, in their median absolute deviations."""
    recent = deque(maxlen=300)

    def update(time, value):
        recent.append(value)
        ordered = sorted(recent)
        middle = ordered[len(ordered) // 2]
        spread = sorted(abs(each - middle) for each in ordered)[len(ordered) // 2]
        z = abs(value - middle) / (1.48 * spread) if spread > 0.0 else 0.0
        return z / (1.0 + z)

    return update


def once(make):
    """A detector that says the same thing once: only what exceeds all of its last 200 scores counts."""

    def made():
        update, held, since = make(), 0.0, 0

        def judged(time, value):
            nonlocal held, since
            score = update(time, value)
            since += 1
            if since > 200:
                held = 0.0
            if score <= held:
                return 0.0
            held, since = score, 0
            return score

        return judged

    return made


DETECTORS = {
    PRODUCT: from_product,
    "EWMA z-score": from_ewma,
    "EWMA z-score, once": once(from_ewma),
    "SPOT": from_spot,
    "SPOT, once": once(from_spot),
    "Median and MAD": from_mad,
    "Median and MAD, once": once(from_mad),
    "Random": from_random,
    "Null": from_null,
}


def run(make, corpus):
    """Scores of one detector on every file."""
    result = {}
    for series in corpus:
        update = make()
        result[series.name] = [
            update(time, value) for time, value in zip(series.times, series.values, strict=True)
        ]
    return result


def write_scores(folder, corpus, scores):
    """Files ``timestamp,value,anomaly_score``, in the folders of the corpus."""
    for series in corpus:
        path = folder / series.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("timestamp", "value", "anomaly_score"))
            writer.writerows(zip(series.stamps, series.values, scores[series.name], strict=True))


def main(argv=None):
    """Run, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the corpus")
    parser.add_argument(
        "--only", nargs="+", choices=DETECTORS, default=list(DETECTORS), help="detectors to run"
    )
    parser.add_argument("--json", action="store_true", help="print {detector: {profile: score}}")
    parser.add_argument(
        "--scores", type=Path, help="write the product's scores, row by row, into this folder"
    )
    arguments = parser.parse_args(argv)
    if not (arguments.data / "windows.json").is_file():
        print(
            f"{arguments.data} has no windows.json: name the folder of the corpus with --data. It is that of the "
            "Numenta Anomaly Benchmark: folders of timestamp,value files, and the labelled windows by file.",
            file=sys.stderr,
        )
        return 2
    corpus = load(arguments.data)
    scores = {name: run(DETECTORS[name], corpus) for name in arguments.only}
    if arguments.scores and PRODUCT in scores:
        write_scores(arguments.scores, corpus, scores[PRODUCT])
    reached = {
        name: {profile: evaluate(corpus, each, weights) for profile, weights in PROFILES.items()}
        for name, each in scores.items()
    }
    if arguments.json:
        table = {
            name: {profile: round(outcome.score, 2) for profile, outcome in row.items()}
            for name, row in reached.items()
        }
        print(json.dumps(table, indent=2))
        return 0
    print_table(corpus, scores, reached)
    return 0


def print_table(corpus, scores, reached):
    """Scores by profile; standard scores by group of files, with the threshold of the whole, and across halves."""
    groups = sorted({series.name.split("/")[0] for series in corpus})
    standard = PROFILES["standard"]
    windows = sum(len(series.windows) for series in corpus)
    print(f"{len(corpus)} files, {sum(len(series.values) for series in corpus)} rows, {windows} windows\n")
    print("| detector | " + " | ".join([*PROFILES, *groups, "threshold of other half"]) + " |")
    print("|---|" + "---|" * (len(PROFILES) + len(groups) + 1))
    for name, row in reached.items():
        cells = [outcome.score for outcome in row.values()]
        for group in groups:
            files = [series for series in corpus if series.name.startswith(f"{group}/")]
            cells.append(evaluate(files, scores[name], standard, row["standard"].threshold).score)
        cells.append(across_halves(corpus, scores[name], standard))
        print(f"| {name} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |")
    print("\nFor a folder without windows it is what its false detections cost, in raw points.")
    print("\nPublished, for all 58 files of the benchmark, most of which may not be in this folder:\n")
    print("| detector | " + " | ".join(PROFILES) + " |")
    print("|---|" + "---|" * len(PROFILES))
    for name, row in PUBLISHED.items():
        print(f"| {name} | " + " | ".join(f"{score:.1f}" for score in row) + " |")


if __name__ == "__main__":
    sys.exit(main())
