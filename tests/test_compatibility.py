"""The page on compatibility says what was run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.compatibility import Results, framework_of


@pytest.mark.parametrize(
    ("nodeid", "framework"),
    [
        ("tests/frameworks/test_spacy.py::test_x", "spacy"),
        ("tests/frameworks/test_transformers_generate.py::TestX::test_y[1]", "transformers"),
        ("tests/frameworks/test_sentence_transformers.py::test_x", "sentence_transformers"),
        ("tests/frameworks/test_together.py::test_x", None),
        ("tests/e2e/test_kserve.py::test_x", "kserve"),
        ("tests/e2e/test_processes.py::test_x", None),
        ("tests/core/test_spacy.py::test_x", None),
    ],
)
def test_the_framework_of_a_test(nodeid: str, framework: str | None) -> None:
    assert framework_of(nodeid) == framework


def test_results_are_recorded_beside_those_of_other_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "compatibility.json"
    module = ModuleType("spacy")
    monkeypatch.setitem(sys.modules, "spacy", module)
    for version, outcomes in (
        ("3.7.5", ["passed", "failed"]),
        ("3.8.18+local", ["passed", "passed", "skipped"]),
        ("3.7.5", ["passed"]),
    ):
        module.__version__ = version  # type: ignore[attr-defined]
        results = Results()
        for outcome in outcomes:
            results.add("tests/frameworks/test_spacy.py::test", outcome)
        results.record(file)
    assert [(row["version"], row["passed"], row["failed"]) for row in json.loads(file.read_text())] == [
        ("3.7.5", 1, 0),
        ("3.8.18", 2, 0),
    ]


def test_a_framework_that_is_not_there_leaves_no_row(tmp_path: Path) -> None:
    file = tmp_path / "compatibility.json"
    results = Results()
    results.add("tests/frameworks/test_vllm.py::test", "skipped")
    results.record(file)
    assert json.loads(file.read_text()) == []
