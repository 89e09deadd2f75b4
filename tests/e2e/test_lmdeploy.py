"""LMDeploy in processes of its own, and its server, over an engine that runs no model: whole telemetry."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmdeploy")

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, free_port, our_spans, serving, wait_until
from tests.e2e.served import ROOT, Served, span
from tests.support import tiny_lmdeploy

NAME = "tiny-llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lmdeploy.save(tmp_path_factory.mktemp("models") / NAME)


def text(operation: str = "text_completion", **known: Any) -> Any:
    return span("lmdeploy", operation, NAME, batch=1, device="cuda", **known)


def test_texts(folder: Path) -> None:
    served = Served("texts", folder, "lmdeploy_app.py")

    assert "otel-aimon" not in served.stderr
    whole, streamed, failed = served.spans
    assert whole == text(input=1, output=4, reasons=("length",))
    assert streamed == text(input=1, output=4, ttft=True, reasons=("length",))
    assert failed[4]["error.type"] in {"internal_error", "error"}
    served.assert_counted()


def post(port: int, path: str, **body: Any) -> Any:
    """The open answer to a request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps({"model": NAME, **body}).encode()
    )
    request.add_header("Content-Type", "application/json")
    return urllib.request.urlopen(request, timeout=30)


def test_the_server(folder: Path) -> None:
    port = free_port()
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint)
        env["PYTHONPATH"] = os.pathsep.join((str(ROOT), env["PYTHONPATH"]))
        command = ("python", "lmdeploy_app.py", "serve", str(folder), str(port))
        with serving(*command, env=env, port=port, health="/v1/models", seconds=120):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as response:
                model = json.load(response)["data"][0]["id"]
            with post(port, "/v1/completions", model=model, prompt="hello", max_tokens=4) as response:
                usage = json.load(response)["usage"]
            messages = [{"role": "user", "content": "hi"}]
            with post(
                port, "/v1/chat/completions", model=model, messages=messages, max_tokens=3, stream=True
            ) as response:
                assert response.read().decode().rstrip().endswith("[DONE]")
            wait_until(lambda: len(our_spans(receiver)) >= 2, "two spans")
        spans = sorted(our_spans(receiver), key=lambda each: each.start_ns)

    assert [each.name for each in spans] == [f"text_completion {NAME}", f"chat {NAME}"]
    completion, chat = (dict(each.attributes) for each in spans)
    assert completion["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert completion["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 4
    assert chat["gen_ai.usage.output_tokens"] == 3
    assert chat["aimon.time_to_first_token"] > 0
    assert chat["gen_ai.response.finish_reasons"] == ("length",)
