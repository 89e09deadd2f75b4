"""CTranslate2, faster-whisper, OpenVINO, onnxruntime-genai and llama.cpp in a process of their own: whole telemetry, good and bad."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, span


def _models(folder: Path, *names: str) -> Path:
    pytest.importorskip("transformers")
    tiny = importlib.import_module("tests.support.tiny_ct2")
    for name in names:
        getattr(tiny, f"save_{name}")(folder / name)
    return folder


def test_ctranslate2(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    served = Served("ctranslate2", _models(tmp_path, "llama", "t5"))

    def generated(**known: Any) -> tuple[Any, ...]:
        return span("ctranslate2", "text_completion", "llama", **known)

    assert served.stderr == ""
    assert served.spans == [
        generated(batch=2, input=6, output=12),
        generated(batch=1, input=3, output=6),
        generated(batch=1, input=3, output=6, ttft=True),
        generated(batch=1, input=3, output=1, ttft=True, error="cancelled"),
        generated(batch=1, input=3, error="cancelled"),
        span("ctranslate2", "translation", "t5", batch=1, input=1024, output=2),
        generated(batch=1, input=3, error="ValueError"),
    ]
    llama, t5 = ("ctranslate2", "llama", "text_completion"), ("ctranslate2", "t5", "translation")
    assert served.values("aimon.inference.duration") == {
        llama: 3,
        (*llama, "cancelled"): 2,
        (*llama, "ValueError"): 1,
        t5: 1,
    }
    assert served.values("aimon.inference.batch.size", "total") == {llama: 7, t5: 1}
    assert served.values("aimon.inference.tokens", "value") == {
        (*llama, "input"): 21,
        (*llama, "output"): 25,
        (*t5, "input"): 1024,
        (*t5, "output"): 2,
    }
    assert served.values("gen_ai.server.request.duration") == {
        ("text_completion", "ctranslate2", "llama"): 3,
        ("cancelled", "text_completion", "ctranslate2", "llama"): 2,
        ("ValueError", "text_completion", "ctranslate2", "llama"): 1,
        ("text_completion", "ctranslate2", "t5"): 1,
    }
    for metric in ("time_to_first_token", "time_per_output_token"):
        assert served.values(f"gen_ai.server.{metric}") == {("text_completion", "ctranslate2", "llama"): 1}


def test_faster_whisper(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    served = Served("faster_whisper", _models(tmp_path, "whisper"))

    def transcribed(**known: Any) -> tuple[Any, ...]:
        return span("faster_whisper", "transcribe", "whisper", batch=1, seconds=40.0, **known)

    request = "transcribe whisper"
    encoded = span("ctranslate2", "encode", "whisper", batch=1, parent=request)
    generations = [each for each in served.spans if each[0] == "text_completion whisper"]
    [output] = {each[4]["gen_ai.usage.output_tokens"] for each in generations}
    generated = span(
        "ctranslate2", "text_completion", "whisper", batch=1, input=2, output=output, parent=request
    )
    assert output > 0
    assert served.stderr == ""
    assert served.spans == [
        *(transcribed(input=4, output=2 * output, ttft=True, speed=True), *[encoded, generated] * 2),
        *(transcribed(input=2, output=output, ttft=True, error="cancelled"), encoded, generated),
        *(transcribed(error="ValueError"), encoded),
    ]
    series = ("faster_whisper", "whisper", "transcribe")
    assert served.values("aimon.inference.duration") == {
        series: 1,
        (*series, "cancelled"): 1,
        (*series, "ValueError"): 1,
    }
    assert served.values("aimon.inference.stage.duration") == {
        ("ctranslate2", "whisper", "encode"): 4,
        ("ctranslate2", "whisper", "text_completion"): 3,
    }
    assert served.values("aimon.inference.audio.speed") == {series: 1}
    assert served.values("aimon.inference.audio.duration", "value") == {series: 40.0}
    assert served.values("aimon.inference.tokens", "value") == {
        (*series, "input"): 6,
        (*series, "output"): 3 * output,
    }


def test_onnxruntime_genai(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai")
    tiny = importlib.import_module("tests.support.tiny_genai")
    served = Served("onnxruntime_genai", tiny.save(tmp_path / "counting"))

    def generated(**known: Any) -> tuple[Any, ...]:
        return span("onnxruntime_genai", "text_completion", "counting", **known)

    assert "Traceback" not in served.stderr
    assert served.spans == [
        generated(batch=1, input=2, output=4, ttft=True),
        generated(batch=2, ttft=True),
        generated(batch=1, input=2, output=1, ttft=True, error="cancelled"),
        generated(batch=1, error="RuntimeError"),
    ]
    series = ("onnxruntime_genai", "counting", "text_completion")
    assert served.values("aimon.inference.duration") == {
        series: 2,
        (*series, "cancelled"): 1,
        (*series, "RuntimeError"): 1,
    }
    assert served.values("aimon.inference.batch.size", "total") == {series: 5}
    assert served.values("aimon.inference.tokens", "value") == {(*series, "input"): 4, (*series, "output"): 5}
    for metric in ("time_to_first_token", "time_per_output_token"):
        assert served.values(f"gen_ai.server.{metric}") == {
            ("text_completion", "onnxruntime_genai", "counting"): 2
        }


def test_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    tiny = importlib.import_module("tests.support.tiny_gguf")
    tiny.save(tmp_path / "model.gguf")
    served = Served("llama_cpp", tmp_path)

    def asked(operation: str = "text_completion", **known: Any) -> tuple[Any, ...]:
        return span("llama_cpp", operation, tiny.NAME, **known)

    whole = asked(batch=1, input=7, output=6, reasons=("length",), ttft=True)
    chat = next(each for each in served.spans if each[0] == f"chat {tiny.NAME}")
    prompt = chat[4]["gen_ai.usage.input_tokens"]
    assert prompt > 7
    assert served.stderr == ""
    assert served.spans == [
        whole,
        whole,
        asked("chat", batch=1, input=prompt, output=2, reasons=("length",), ttft=True),
        asked(batch=1, input=7, output=1, ttft=True, error="cancelled"),
        asked(batch=1, error="ValueError"),
        asked("embeddings", batch=2, input=6),
    ]
    text, chatted, embedded = (
        ("llama_cpp", tiny.NAME, operation) for operation in ("text_completion", "chat", "embeddings")
    )
    assert served.values("aimon.inference.duration") == {
        text: 2,
        (*text, "cancelled"): 1,
        (*text, "ValueError"): 1,
        chatted: 1,
        embedded: 1,
    }
    assert served.values("aimon.inference.batch.size", "total") == {text: 4, chatted: 1, embedded: 2}
    assert served.values("aimon.inference.tokens", "value") == {
        (*text, "input"): 21,
        (*text, "output"): 13,
        (*chatted, "input"): prompt,
        (*chatted, "output"): 2,
        (*embedded, "input"): 6,
    }
    for metric in ("time_to_first_token", "time_per_output_token"):
        assert served.values(f"gen_ai.server.{metric}") == {
            ("text_completion", "llama_cpp", tiny.NAME): 2,
            ("chat", "llama_cpp", tiny.NAME): 1,
        }


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    served = Served("openvino", tmp_path)

    def added(**known: Any) -> tuple[Any, ...]:
        return span("openvino", "infer", "addition", **known)

    assert served.stderr == ""
    assert served.spans == [
        span("openvino", "infer", "linear", batch=3),
        added(batch=3),
        added(error="RuntimeError"),
        added(error="cancelled"),
        *[added(batch=3, queue=True)] * 5,
    ]
    series = ("openvino", "addition", "infer")
    assert served.values("aimon.inference.duration") == {
        ("openvino", "linear", "infer"): 1,
        series: 6,
        (*series, "RuntimeError"): 1,
        (*series, "cancelled"): 1,
    }
    assert served.values("aimon.inference.batch.size", "total") == {
        ("openvino", "linear", "infer"): 3,
        series: 18,
    }
    assert served.values("aimon.inference.queue.duration") == {series: 5}
