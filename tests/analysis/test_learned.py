"""What was learned survives a restart; a file that does not fit is told once, and nothing else happens."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_aimon.analysis import learned
from otel_aimon.analysis.degradation import Degradation
from otel_aimon.analysis.evidence import Identity
from otel_aimon.analysis.tick import Tick

NOW = 1_700_000_000.0
M: Identity = (("aimon.model.name", "m"),)
TICK = Tick(count=20, errors=1, p95=2.0, p95_per_token=0.02, log_sd=0.4, tokens=100.0)


def experienced(ticks: int = 400) -> Degradation:
    degradation = Degradation()
    for place in range(ticks):
        degradation.tick(NOW - (ticks - place) * 10.0, {M: TICK})
    return degradation


@pytest.fixture(scope="module")
def degradation() -> Degradation:
    return experienced()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_what_was_saved_is_loaded(
    tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture
) -> None:
    file, fresh = tmp_path / "learned.json", Degradation()
    learned.save(file, degradation, NOW)
    assert learned.load(file, fresh, NOW + 60)
    assert fresh.state(NOW + 60) == degradation.state(NOW)
    assert names(tmp_path) == ["learned.json"]
    assert warnings(caplog) == []


def test_without_a_file_it_is_learned_anew_and_nobody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not learned.load(tmp_path / "learned.json", Degradation(), NOW)
    assert warnings(caplog) == []


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def saved(file: Path, degradation: Degradation, **changes: Any) -> None:
    learned.save(file, degradation, NOW)
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


class TestWhatDoesNotFit:
    def refused(self, file: Path, caplog: pytest.LogCaptureFixture, now: float = NOW + 60) -> str:
        """Nothing is loaded, and nothing changes; the one warning."""
        degradation = Degradation()
        before = degradation.state(now)
        assert not learned.load(file, degradation, now)
        assert degradation.state(now) == before
        (warning,) = warnings(caplog)
        assert str(file) in warning
        return warning

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_another_version(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture, version: object
    ) -> None:
        file = tmp_path / "learned.json"
        saved(file, degradation, version=version)
        assert "version" in self.refused(file, caplog)

    @pytest.mark.parametrize("age", [-10.0, 8 * 86_400.0])
    def test_too_old_or_from_the_future(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture, age: float
    ) -> None:
        file = tmp_path / "learned.json"
        learned.save(file, degradation, NOW)
        assert "older than a week" in self.refused(file, caplog, NOW + age)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"7",
            b"{}",
            b"\xff\xfe\x00",
            b"[" * 200_000,
            b'{"version": 1, "saved_at": "yesterday", "degradation": {}}',
            b'{"version": 1, "saved_at": 1700000000, "degradation": []}',
            b'{"version": 1, "saved_at": NaN, "degradation": {}}',
        ],
        ids=lambda content: repr(content[:30]),
    )
    def test_anything_else(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
        file = tmp_path / "learned.json"
        file.write_bytes(content)
        self.refused(file, caplog)

    def test_a_file_that_was_cut_off(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "learned.json"
        learned.save(file, degradation, NOW)
        file.write_bytes(file.read_bytes()[:-100])
        self.refused(file, caplog)

    def test_other_ticks(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "learned.json"
        learned.save(file, degradation, NOW)
        assert not learned.load(file, Degradation(tick_seconds=5.0), NOW)
        assert len(warnings(caplog)) == 1

    def test_a_directory(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.refused(tmp_path, caplog)

    def test_a_file_that_is_too_large(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(learned, "_MOST_BYTES", 10)
        file = tmp_path / "learned.json"
        file.write_text(" " * 11)
        assert "too large" in self.refused(file, caplog)


def paths(document: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every kind of place in a document: of a list, the first only."""
    yield here
    if isinstance(document, dict):
        inner = list(document.items())
    else:
        inner = list(enumerate(document))[:1] if isinstance(document, list) else []
    for key, each in inner:
        yield from paths(each, (*here, key))


DAMAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.sampled_from(["nan", "inf", [], {}, [1], -1, 0, 1e308, -1e308, 1e-308]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_damaged_it_is_refused_or_does_no_harm(
    tmp_path: Path, degradation: Degradation, data: st.DataObject
) -> None:
    state = json.loads(json.dumps(degradation.state(NOW)))
    place = data.draw(st.sampled_from([path for path in paths(state) if path]))
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(DAMAGE)
    file = tmp_path / "learned.json"
    file.write_text(json.dumps({"version": learned.VERSION, "saved_at": NOW, "degradation": state}))
    fresh = Degradation(learning=0.0)
    learned.load(file, fresh, NOW)
    for passed in (10.0, 20.0, 10_000.0):
        for evidence in fresh.tick(NOW + passed, {M: TICK}):
            assert not math.isnan(evidence.score), evidence
    json.dumps(fresh.state(NOW + 10_000.0))


class TestWriting:
    def test_the_old_file_stays_until_the_new_one_is_whole(
        self,
        tmp_path: Path,
        degradation: Degradation,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        file = tmp_path / "learned.json"
        file.write_text("old")

        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fails)
        learned.save(file, degradation, NOW)
        assert file.read_text() == "old"
        assert names(tmp_path) == ["learned.json"]
        (warning,) = warnings(caplog)
        assert "No space left on device" in warning

    def test_a_reader_never_sees_half_a_file(self, tmp_path: Path, degradation: Degradation) -> None:
        file = tmp_path / "learned.json"
        learned.save(file, degradation, NOW)
        done = threading.Event()

        def write() -> None:
            for _ in range(30):
                learned.save(file, degradation, NOW)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            json.loads(file.read_text())
        writer.join()

    @pytest.mark.parametrize(
        "name",
        ["missing/learned.json", "file/learned.json", "directory", "x" * 300, "nul\0.json"],
        ids=["no directory", "a file as directory", "a directory", "too long", "no name"],
    )
    def test_where_nothing_can_be_written_nothing_happens_but_a_warning(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "directory").mkdir()
        before = names(tmp_path)
        learned.save(tmp_path / name, degradation, NOW)
        assert len(warnings(caplog)) == 1
        assert names(tmp_path) == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
    def test_a_directory_that_may_not_be_written_to(
        self, tmp_path: Path, degradation: Degradation, caplog: pytest.LogCaptureFixture
    ) -> None:
        tmp_path.chmod(0o500)
        try:
            learned.save(tmp_path / "learned.json", degradation, NOW)
        finally:
            tmp_path.chmod(0o700)
        assert len(warnings(caplog)) == 1

    def test_the_root_is_no_file(self, degradation: Degradation, caplog: pytest.LogCaptureFixture) -> None:
        learned.save(Path("/proc"), degradation, NOW)
        assert len(warnings(caplog)) == 1

    def test_a_number_that_is_none_is_not_written(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        degradation, file = experienced(3), tmp_path / "learned.json"
        degradation._together.errors.usual = float("nan")
        learned.save(file, degradation, NOW)
        assert len(warnings(caplog)) == 1
        assert not file.exists()
