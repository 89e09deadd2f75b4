"""faster-whisper, for real: a transcription is a request, from the call to its last segment."""

from __future__ import annotations

import gc
import inspect
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("faster_whisper")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import faster_whisper.transcribe
import numpy as np
from faster_whisper import WhisperModel

import otel_aimon
from tests.frameworks.whole_spans import whole_span
from tests.support import tiny_ct2
from tests.support.telemetry import Telemetry, wait_until

_Pipeline = getattr(faster_whisper.transcribe, "BatchedInferencePipeline", None)
_RATE = 16000
_TTFT = "aimon.time_to_first_token"
_SPEED = "aimon.audio.speed"

OPTIONS: dict[str, Any] = {
    "language": "en",
    "beam_size": 1,
    "temperature": [0.0],
    "max_new_tokens": 8,
    "no_speech_threshold": None,
    "log_prob_threshold": None,
    "compression_ratio_threshold": None,
    "condition_on_previous_text": False,
    "without_timestamps": True,
}
"""One attempt at each window of 30 seconds, which is taken for speech whatever is in it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_ct2.save_whisper(tmp_path_factory.mktemp("models") / "tiny-whisper")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("faster_whisper", "ctranslate2", "onnxruntime")) as running:
        yield running


@pytest.fixture
def model(telemetry: Telemetry, folder: str) -> Any:
    return WhisperModel(folder, device="cpu", compute_type="float32")


def sound(seconds: float) -> Any:
    return np.zeros(int(seconds * _RATE), np.float32)


def span(
    operation: str = "transcribe",
    *,
    seconds: float | None = None,
    tokens: tuple[int | None, int | None] = (None, None),
    first: bool = True,
    whole: bool = True,
    error: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """A whole span of a transcription; what is measured is ``True`` where there is something."""
    known = {
        "aimon.framework": "faster_whisper",
        "aimon.operation": operation,
        "aimon.model.name": "tiny-whisper",
        "aimon.batch.size": 1,
        "aimon.device": "cpu",
        "error.type": error,
        "aimon.audio.duration": seconds,
        _SPEED: True if seconds is not None and whole else None,
        _TTFT: True if seconds is not None and first else None,
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
    }
    return whole_span(f"{operation} tiny-whisper", known, parent=parent)


def stage(operation: str, tokens: tuple[int, int] | None = None) -> dict[str, Any]:
    """A whole span of a call of CTranslate2 inside."""
    gen_ai = operation == "text_completion"
    known = {
        "aimon.framework": "ctranslate2",
        "aimon.operation": operation,
        "aimon.model.name": "tiny-whisper",
        "aimon.batch.size": 1,
        "aimon.device": "cpu",
        "gen_ai.operation.name": operation if gen_ai else None,
        "gen_ai.provider.name": "ctranslate2" if gen_ai else None,
        "gen_ai.request.model": "tiny-whisper" if gen_ai else None,
        "gen_ai.usage.input_tokens": tokens and tokens[0],
        "gen_ai.usage.output_tokens": tokens and tokens[1],
    }
    return {
        "name": f"{operation} tiny-whisper",
        "kind": "INTERNAL",
        "parent": "transcribe tiny-whisper",
        "attributes": {key: value for key, value in known.items() if value is not None},
        "status": "UNSET",
        "events": [],
    }


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    found = telemetry.spans()
    for each in found:
        for name in (_TTFT, _SPEED):
            if name in each["attributes"]:
                each["attributes"][name] = each["attributes"][name] > 0
    return found


def tokens_of(segments: list[Any]) -> int:
    return sum(len(each.tokens) for each in segments)


class TestTranscriptions:
    def test_a_transcription_is_one_request(self, telemetry: Telemetry, model: Any) -> None:
        segments, info = model.transcribe(sound(2), **OPTIONS)
        assert inspect.isgenerator(segments)
        assert type(info) is faster_whisper.transcribe.TranscriptionInfo
        assert (segments.__name__, segments.__qualname__) == (
            "generate_segments",
            "WhisperModel.generate_segments",
        )
        assert spans(telemetry) == []
        found = list(segments)
        assert {type(each) for each in found} == {faster_whisper.transcribe.Segment}
        generated = tokens_of(found)
        assert spans(telemetry) == [
            span(seconds=2.0, tokens=(2, generated)),
            stage("encode"),
            stage("text_completion", (2, generated)),
        ]
        metrics = telemetry.metrics()
        attributes = {
            "aimon.framework": "faster_whisper",
            "aimon.operation": "transcribe",
            "aimon.model.name": "tiny-whisper",
        }
        for name in ("aimon.inference.duration", "aimon.inference.audio.speed"):
            [point] = metrics[name]
            assert (point.attributes, point.count) == (attributes, 1)
        [heard] = metrics["aimon.inference.audio.duration"]
        assert (heard.attributes, heard.value) == (attributes, 2.0)
        assert telemetry.counts("aimon.inference.stage.duration") == {
            ("ctranslate2", "tiny-whisper", "encode"): 1,
            ("ctranslate2", "tiny-whisper", "text_completion"): 1,
        }
        assert not any(name.startswith("gen_ai.server.time") for name in metrics)

    def test_a_long_one_has_a_window_after_another(self, telemetry: Telemetry, model: Any) -> None:
        segments, _ = model.transcribe(sound(40), **OPTIONS)
        generated = tokens_of(list(segments))
        outer, *inner = spans(telemetry)
        assert outer == span(seconds=40.0, tokens=(4, generated))
        assert [each["name"].split()[0] for each in inner] == ["encode", "text_completion"] * 2

    def test_the_users_time_is_no_work(self, telemetry: Telemetry, model: Any) -> None:
        segments, _ = model.transcribe(sound(40), **OPTIONS)
        for _ in segments:
            with otel_aimon.inference("translate", model="of-the-user"):
                pass
        raw = telemetry.raw_spans()
        outer = raw[0]
        work = outer.attributes["aimon.audio.duration"] / outer.attributes[_SPEED]
        users = [each for each in raw if each.name == "translate of-the-user"]
        assert [each.parent for each in users] == [None] * 2
        taken = sum(each.end_time - each.start_time for each in users) / 1e9
        assert work <= (outer.end_time - outer.start_time) / 1e9 - taken

    def test_without_the_models_own_instrumentation(self, folder: str) -> None:
        with Telemetry(frameworks=("faster_whisper",)) as telemetry:
            model = WhisperModel(folder, device="cpu", compute_type="float32")
            list(model.transcribe(sound(2), **OPTIONS)[0])
            assert spans(telemetry) == [span(seconds=2.0)]

    def test_voice_activity_is_part_of_it(self, telemetry: Telemetry, model: Any) -> None:
        noise = np.random.default_rng(0).normal(size=_RATE).astype(np.float32)
        segments, info = model.transcribe(noise, vad_filter=True, **OPTIONS)
        list(segments)
        frameworks = {each["attributes"]["aimon.framework"] for each in telemetry.spans()}
        assert "onnxruntime" not in frameworks
        assert telemetry.spans()[0]["attributes"]["aimon.audio.duration"] == info.duration == 1.0
        assert telemetry.counts() == {("faster_whisper", "tiny-whisper", "transcribe"): 1}

    @pytest.mark.skipif(_Pipeline is None, reason="this version has no batches")
    def test_batches(self, telemetry: Telemetry, model: Any) -> None:
        segments, _ = _Pipeline(model).transcribe(
            sound(8),
            language="en",
            beam_size=1,
            vad_filter=False,
            max_new_tokens=8,
            clip_timestamps=[{"start": 0, "end": 4}, {"start": 4, "end": 8}],
        )
        found = list(segments)
        outer, encode, generate = spans(telemetry)
        generated = generate["attributes"]["gen_ai.usage.output_tokens"]
        assert generated >= tokens_of(found) > 0
        assert outer == span(seconds=8.0, tokens=(4, generated))
        assert [each["attributes"]["aimon.batch.size"] for each in (encode, generate)] == [2, 2]
        assert telemetry.counts() == {("faster_whisper", "tiny-whisper", "transcribe"): 1}

    def test_a_transcription_inside_a_request_is_a_stage_of_it(
        self, telemetry: Telemetry, model: Any
    ) -> None:
        with otel_aimon.inference("answer", model="service"):
            found = list(model.transcribe(sound(2), **OPTIONS)[0])
        outer, inner, *_ = spans(telemetry)
        # The tokens are the request's: those of a stage within a stage are handed to it at once.
        assert inner == span(seconds=2.0, parent="answer service")
        assert outer["attributes"]["gen_ai.usage.output_tokens"] == tokens_of(found)
        assert telemetry.counts() == {("manual", "service", "answer"): 1}
        assert "aimon.inference.audio.speed" not in telemetry.metrics()


class TestEnds:
    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_one_that_is_left_is_cancelled(self, telemetry: Telemetry, model: Any, how: str) -> None:
        segments, _ = model.transcribe(sound(40), **OPTIONS)
        first = next(segments)
        if how == "close":
            segments.close()
        del segments
        gc.collect()
        wait_until(lambda: len(telemetry.spans()) >= 3)
        assert spans(telemetry)[0] == span(
            seconds=40.0, tokens=(2, len(first.tokens)), whole=False, error="cancelled"
        )
        assert telemetry.counts() == {("faster_whisper", "tiny-whisper", "transcribe", "cancelled"): 1}
        assert "aimon.inference.audio.duration" not in telemetry.metrics()

    def test_one_that_is_never_begun_is_cancelled(self, telemetry: Telemetry, model: Any) -> None:
        model.transcribe(sound(2), **OPTIONS)
        gc.collect()
        wait_until(telemetry.spans)
        assert spans(telemetry) == [span(seconds=2.0, first=False, whole=False, error="cancelled")]

    def test_too_many_tokens(self, telemetry: Telemetry, model: Any) -> None:
        segments, _ = model.transcribe(sound(2), **{**OPTIONS, "max_new_tokens": 1000})
        with pytest.raises(ValueError, match="max_length"):
            next(segments)
        assert spans(telemetry) == [
            span(seconds=2.0, first=False, whole=False, error="ValueError"),
            stage("encode"),
        ]

    def test_sound_that_is_none(self, telemetry: Telemetry, model: Any, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            model.transcribe(str(tmp_path / "secret.wav"))
        with pytest.raises(TypeError):
            model.transcribe()
        assert spans(telemetry) == [
            span(error="av.error.FileNotFoundError"),
            span(error="TypeError"),
        ]

    def test_an_error_of_the_users_in_a_generator(self, telemetry: Telemetry, model: Any) -> None:
        segments, _ = model.transcribe(sound(40), **OPTIONS)
        next(segments)
        with pytest.raises(LookupError, match="mine"):
            segments.throw(LookupError("mine"))
        assert spans(telemetry)[0]["attributes"]["error.type"] == "LookupError"


def test_detecting_a_language(telemetry: Telemetry, model: Any) -> None:
    if not hasattr(model, "detect_language"):
        pytest.skip("this version has no method for it")
    features = model.feature_extractor(sound(2))
    with pytest.raises(RuntimeError, match="multilingual"):
        model.detect_language(features=features)
    first, *rest = spans(telemetry)
    assert first == span("detect_language", error="RuntimeError")
    assert [each["name"] for each in rest] == ["encode tiny-whisper", "detect_language tiny-whisper"]


def _attributes() -> dict[tuple[Any, str], Any]:
    owners = [each for each in (WhisperModel, _Pipeline, faster_whisper.transcribe) if each is not None]
    return {(owner, name): value for owner in owners for name, value in vars(owner).items()}


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def seen() -> Any:
            methods = [WhisperModel.transcribe, WhisperModel.__init__]
            return [(each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in methods]

        before = seen()
        with Telemetry(frameworks=("faster_whisper",)):
            assert seen() == before
            assert pickle.loads(pickle.dumps(WhisperModel.transcribe)) is WhisperModel.transcribe

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with Telemetry(frameworks=("faster_whisper",)):
            changed = {name for (_, name), value in _attributes().items() if value is not before[_, name]}
        after = _attributes()
        assert {"transcribe", "__init__", "get_speech_timestamps"} <= changed
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_results_are_the_same(self, telemetry: Telemetry, model: Any) -> None:
        def texts() -> list[tuple[Any, ...]]:
            segments, info = model.transcribe(sound(40), **OPTIONS)
            return [(each.tokens, each.start, each.end, info.duration) for each in segments]

        with_us = texts()
        otel_aimon.uninstrument()
        assert texts() == with_us

    def test_nothing_is_kept_alive(self, telemetry: Telemetry, folder: str) -> None:
        model = WhisperModel(folder, device="cpu", compute_type="float32")
        heard = sound(2)
        segments, info = model.transcribe(heard, **OPTIONS)
        segment = next(segments)
        list(segments)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (model, segments, heard)]
        references = sys.getrefcount(info), sys.getrefcount(segment)
        del model, segments, heard
        gc.collect()
        assert [each() for each in watched] == [None] * 3
        # The variable and the argument of the call.
        assert references == (2, 2)

    def test_streams_kept_from_before(self, folder: str) -> None:
        with Telemetry(frameworks=("faster_whisper",)) as telemetry:
            model = WhisperModel(folder, device="cpu", compute_type="float32")
            begun, _ = model.transcribe(sound(40), **OPTIONS)
            next(begun)
        assert len(list(begun)) >= 1
        assert [each["name"] for each in telemetry.spans()] in ([], ["transcribe tiny-whisper"])
