"""Names are short, printable, free of private paths, and bounded in number."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aimon.core.naming import MAX_NAME_LENGTH, Capped, bounded_text, clean_model_name, error_type

CACHE = "/home/somebody/.cache/huggingface/hub"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("gpt2", "gpt2"),
        ("org/model", "org/model"),
        ("org/model:Q4_K_M", "org/model:Q4_K_M"),
        # Paths say where somebody keeps their files.
        ("/home/somebody/models/fraud.onnx", "fraud.onnx"),
        ("./fraud.onnx", "fraud.onnx"),
        ("../fraud", "fraud"),
        ("~/models/fraud/", "fraud"),
        ("data/models/fraud", "fraud"),
        ("C:/models/fraud.onnx", "fraud.onnx"),
        (r"C:\Users\somebody\fraud.onnx", "fraud.onnx"),
        (r"\\share\models\fraud", "fraud"),
        # A snapshot in the hub's cache gets its hub name back.
        (f"{CACHE}/models--org--model/snapshots/0123abcd", "org/model"),
        (f"{CACHE}/models--org--model--x/snapshots/0123abcd/model.onnx", "org/model--x"),
        (f"{CACHE}/models--gpt2/snapshots/0123abcd", "gpt2"),
        (r"D:\hub\models--org--model\snapshots\0123abcd", "org/model"),
        # A URL may hold keys and passwords.
        ("https://host/org/model?key=secret#part", "model"),
        ("https://user:password@host", "host"),
        ("s3://bucket/models/fraud", "fraud"),
        ("file:///home/somebody/fraud.onnx", "fraud.onnx"),
        # Nothing that breaks a label, a terminal or an export.
        ("bad\x00\x1b[31m\nname", "bad [31m name"),
        ("bad\u202e\u2028name", "bad name"),
        ("half\udcff surrogate", "half surrogate"),
        ("", "unknown"),
        (" \n ", "unknown"),
        ("/", "unknown"),
        ("Modell für Übersetzung", "Modell für Übersetzung"),
    ],
)
def test_model_names(raw: str, name: str) -> None:
    assert clean_model_name(raw) == name


def test_a_name_of_megabytes_is_cut() -> None:
    assert clean_model_name("x" * 5_000_000) == "x" * MAX_NAME_LENGTH
    assert clean_model_name("/secret" * 1_000_000 + "/model") == "model"


@pytest.mark.parametrize(
    "hostile", ["models--" * 600, "models--a--" * 400 + "/snapshotz", "/" * 5000, "\x00" * 5000]
)
def test_hostile_names_are_read_without_backtracking(hostile: str) -> None:
    # A search that backtracks would not come back for minutes.
    assert len(clean_model_name(hostile)) <= MAX_NAME_LENGTH


@given(st.text(max_size=5000))
def test_whatever_comes_in_is_short_printable_and_can_be_exported(raw: str) -> None:
    for name in (clean_model_name(raw), bounded_text(raw)):
        assert 0 < len(name) <= MAX_NAME_LENGTH
        assert name.isprintable()
        assert name.strip() == name
        name.encode()


@given(st.lists(st.sampled_from(["home", "somebody", "x", "..", "~"]), min_size=2, max_size=8))
def test_no_folder_of_a_path_is_left(parts: list[str]) -> None:
    assert clean_model_name("/" + "/".join(parts)) == parts[-1]


class TestErrorType:
    def test_a_class_of_the_program_has_its_name_alone(self) -> None:
        made = type("Mine", (Exception,), {"__module__": "__main__"})
        assert error_type(made()) == "Mine"

    def test_a_name_without_end_is_cut(self) -> None:
        made = type("E" * 1000, (Exception,), {})
        assert len(error_type(made())) == MAX_NAME_LENGTH


class TestCapped:
    def test_known_values_pass_and_new_ones_overflow(self) -> None:
        capped = Capped(2, "other")
        assert [capped.admit(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]
        assert capped.overflowed == 2

    def test_threads_never_pass_the_limit(self) -> None:
        capped = Capped(10, -1)
        admitted: set[int] = set()
        barrier = threading.Barrier(4)

        def admit(offset: int) -> None:
            barrier.wait()
            for number in range(200):
                admitted.add(capped.admit(offset * 100 + number))

        threads = [threading.Thread(target=admit, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(admitted - {-1}) == 10

    def test_a_child_has_a_lock_of_its_own_and_counts_from_zero(self) -> None:
        capped = Capped(1, "other")
        capped.admit("a")
        capped.admit("b")
        capped._lock.acquire()
        capped.after_fork_in_child()
        assert capped.overflowed == 0
        assert capped.admit("b") == "other"
        assert capped.overflowed == 1
