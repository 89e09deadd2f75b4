"""Each subject that several processes see alike has one voice among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_aimon.resources import voices as electing
from otel_aimon.resources.voices import Voices


@pytest.fixture
def two(tmp_path: Path) -> tuple[Voices, Voices]:
    """As two processes have them: each opens the files for itself."""
    return Voices(tmp_path), Voices(tmp_path)


def test_the_first_to_ask_speaks_for_a_subject(two: tuple[Voices, Voices]) -> None:
    first, second = two
    assert (first.speaks_for("host"), second.speaks_for("host")) == (True, False)
    assert (second.speaks_for("GPU-2"), first.speaks_for("GPU-2")) == (True, False)


def test_who_resigns_is_replaced_in_the_next_round(two: tuple[Voices, Voices]) -> None:
    first, second = two
    assert first.speaks_for("host")
    assert not second.speaks_for("host")
    first.resign()
    assert not second.speaks_for("host")
    second.start_round()
    assert second.speaks_for("host")
    first.start_round()
    assert not first.speaks_for("host")


def test_each_container_has_its_own_voice(
    two: tuple[Voices, Voices], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    assert first.speaks_for("container")
    assert not second.speaks_for("container")
    second.resign()
    monkeypatch.setattr(electing, "_container_key", lambda: "another")
    elsewhere = Voices(first._directory)
    assert elsewhere.speaks_for("container")


def test_a_forked_child_does_not_speak_for_its_parent(two: tuple[Voices, Voices]) -> None:
    parent, child = two
    assert parent.speaks_for("host")
    parent.after_fork_in_child()
    assert child.speaks_for("host")
