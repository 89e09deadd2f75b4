"""MLX LM in processes of its own, and its server: whole telemetry, good and bad."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm")

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, free_port, our_spans, serving, wait_until
from tests.e2e.served import Served, span
from tests.support import tiny_mlx

NAME = "tiny-llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mlx.save(tmp_path_factory.mktemp("models") / NAME)


def text(**known: Any) -> Any:
    return span("mlx_lm", "text_completion", NAME, **known)


def test_texts(folder: Path) -> None:
    served = Served("texts", folder, "mlx_app.py")

    assert "otel-aimon" not in served.stderr
    assert served.spans == [
        text(batch=1, input=2, output=4, ttft=True, reasons=("length",)),
        text(batch=1, input=2, output=1, ttft=True, error="cancelled"),
        text(batch=2, input=5, output=6, ttft=True, reasons=("length", "length")),
        text(batch=1, error="MemoryError"),
    ]
    served.assert_counted()
    assert sum(served.values("gen_ai.server.time_to_first_token").values()) == 2


def post(port: int, **body: Any) -> Any:
    """The open answer to a request."""
    data = json.dumps({"prompt": "hello world", "temperature": 0.0, **body}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", data)
    request.add_header("Content-Type", "application/json")
    return urllib.request.urlopen(request, timeout=30)


def ask(port: int, **body: Any) -> dict[str, Any]:
    with post(port, **body) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_the_server(folder: Path) -> None:
    port = free_port()
    arguments = ("--model", str(folder), "--port", str(port))
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        with serving("mlx_lm.server", *arguments, env=env, port=port, health="/health"):
            whole = ask(port, max_tokens=4)
            # With a seed it is served alone. Its first character is a stop word.
            stopped = ask(port, max_tokens=20, seed=1, stop=[whole["choices"][0]["text"][:1]])
            # A client that leaves: it would take seconds to the end.
            with post(port, max_tokens=5000, stream=True) as response:
                response.readline()
            wait_until(lambda: len(our_spans(receiver)) == 3, "three spans")
        spans = sorted(our_spans(receiver), key=lambda each: each.start_ns)

    first, second, left = (dict(each.attributes) for each in spans)
    assert left["error.type"] == "cancelled"
    assert 0 < left["gen_ai.usage.output_tokens"] < 5000
    for told, answer in ((first, whole), (second, stopped)):
        assert told["aimon.model.name"] == NAME
        assert told["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
        assert told["aimon.time_to_first_token"] > 0
        assert "error.type" not in told
    assert first["gen_ai.usage.input_tokens"] == whole["usage"]["prompt_tokens"]
    assert first["gen_ai.response.finish_reasons"] == ("length",)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert second["gen_ai.usage.output_tokens"] == 1
    assert "gen_ai.response.finish_reasons" not in second
