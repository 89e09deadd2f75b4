"""The score of anomaly detection is that of the Numenta Anomaly Benchmark, and the command does what it says."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from math import exp
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "anomaly.py"


@pytest.fixture(scope="module")
def benchmark():
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("benchmark_anomaly", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def series(benchmark, windows, rows=1000, name="folder/one.csv"):
    times = [300.0 * row for row in range(rows)]
    stamps = [
        f"2014-04-{1 + row // 288:02d} {row % 288 // 12:02d}:{row % 12 * 5:02d}:00" for row in range(rows)
    ]
    return benchmark.Series(name, stamps, times, [1.0] * rows, windows)


def scored(benchmark, one, detections, profile="standard"):
    scores = {one.name: [1.0 if row in detections else 0.0 for row in range(len(one.times))]}
    return benchmark.evaluate([one], scores, benchmark.PROFILES[profile]).score


def test_nothing_detected_is_zero(benchmark):
    one = series(benchmark, [(500, 599)])
    assert scored(benchmark, one, set()) == 0.0


def test_the_start_of_every_window_and_nothing_else_is_a_hundred(benchmark):
    one = series(benchmark, [(300, 399), (700, 799)])
    assert scored(benchmark, one, {300, 700}) == pytest.approx(100.0)
    assert scored(benchmark, one, {300, 301, 302, 700, 750}) == pytest.approx(100.0)


def test_half_a_window_late_is_worth_what_the_sigmoid_says(benchmark):
    one = series(benchmark, [(500, 599)])
    position = -(599 - 550 + 1) / 100
    worth = (2 / (1 + exp(5 * position)) - 1) / (2 / (1 + exp(-5)) - 1)
    assert scored(benchmark, one, {550}) == pytest.approx(100 * (worth + 1) / 2)


@pytest.mark.parametrize(
    ("profile", "lost"), [("standard", 0.11), ("reward_low_FP", 0.22), ("reward_low_FN", 0.11)]
)
def test_a_false_detection_far_from_a_window_costs_its_weight(benchmark, profile, lost):
    one = series(benchmark, [(500, 599)])
    missed = benchmark.PROFILES[profile].missed
    assert scored(benchmark, one, {200, 500}, profile) == pytest.approx(
        100 * (1 + missed - lost) / (1 + missed)
    )
    assert scored(benchmark, one, {900, 500}, profile) == pytest.approx(
        100 * (1 + missed - lost) / (1 + missed)
    )


def test_a_false_detection_soon_after_a_window_costs_less(benchmark):
    one = series(benchmark, [(500, 599)])
    lost = -0.11 * (2 / (1 + exp(5 * (610 - 599) / 99)) - 1)
    assert scored(benchmark, one, {500, 610}) == pytest.approx(100 * (2 - lost) / 2)


def test_probation_does_not_count(benchmark):
    one = series(benchmark, [(500, 599)])
    assert scored(benchmark, one, {*range(150), 500}) == pytest.approx(100.0)
    assert scored(benchmark, one, {150, 500}) < 100.0


@pytest.mark.parametrize(("rows", "expected"), [(1000, 150), (4032, 604), (5000, 750), (20_000, 750)])
def test_probation_is_a_share_of_the_file_with_a_limit(benchmark, rows, expected):
    assert benchmark.probation(rows) == expected


def test_the_threshold_is_the_best_one_for_all_files(benchmark):
    one, other = series(benchmark, [(500, 599)]), series(benchmark, [(500, 599)], name="folder/two.csv")
    scores = {each.name: [0.0] * 1000 for each in (one, other)}
    scores[one.name][500] = 0.9
    scores[other.name][500] = 0.4
    scores[other.name][200] = 0.3
    outcome = benchmark.evaluate([one, other], scores, benchmark.PROFILES["standard"])
    assert (outcome.score, outcome.threshold) == (pytest.approx(100.0), 0.4)
    given = benchmark.evaluate([one, other], scores, benchmark.PROFILES["standard"], 0.5)
    assert given.score == pytest.approx(50.0)


def write_corpus(benchmark, folder):
    one = series(benchmark, [])
    path = folder / one.name
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp", "value"))
        writer.writerows(
            (stamp, 100.0 + row % 7 + (500.0 if row == 500 else 0.0)) for row, stamp in enumerate(one.stamps)
        )
    window = [f"{one.stamps[row]}.000000" for row in (480, 519)]
    (folder / "windows.json").write_text(json.dumps({one.name: [window]}), encoding="utf-8")
    return one


def test_the_command_prints_scores_and_writes_those_of_every_row(benchmark, tmp_path, capsys):
    one = write_corpus(benchmark, tmp_path / "corpus")
    arguments = ["--data", str(tmp_path / "corpus"), "--only", "otel-aimon", "Null"]
    assert benchmark.main([*arguments, "--json", "--scores", str(tmp_path / "scores")]) == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table) == ["otel-aimon", "Null"]
    assert list(table["otel-aimon"]) == ["standard", "reward_low_FP", "reward_low_FN"]
    assert table["Null"] == {"standard": 0.0, "reward_low_FP": 0.0, "reward_low_FN": 0.0}
    assert table["otel-aimon"]["standard"] > 90.0
    with (tmp_path / "scores" / one.name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["timestamp"] for row in rows] == one.stamps
    assert max(rows, key=lambda row: float(row["anomaly_score"]))["timestamp"] == one.stamps[500]


def test_the_table_has_a_row_for_each_detector(benchmark, tmp_path, capsys):
    write_corpus(benchmark, tmp_path)
    assert benchmark.main(["--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in benchmark.DETECTORS:
        assert f"| {name} | " in printed


def test_a_folder_without_the_corpus_is_told(benchmark, tmp_path, capsys):
    assert benchmark.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere has no windows.json: name the folder of the corpus with --data" in capsys.readouterr().err
