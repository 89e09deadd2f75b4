"""llama-cpp-python's own server: each request is inside its HTTP span, and counted once."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import counts_by_process, environment, free_port, our_spans, serving

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytest.importorskip("sse_starlette")

from tests.support import tiny_gguf

PLAIN = {"logit_bias": {"70": 100.0}, "temperature": 0}


def post(port: int, path: str, **body: Any) -> Any:
    """The open answer to a request."""
    data = json.dumps(body | PLAIN).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
    request.add_header("Content-Type", "application/json")
    return urllib.request.urlopen(request, timeout=30)


def test_the_openai_server(tmp_path: Path) -> None:
    model, port = tiny_gguf.save(tmp_path / "model.gguf"), free_port()
    arguments = ("--model", str(model), "--n_ctx", "256", "--n_threads", "1", "--port", str(port))
    with Receiver() as receiver:
        env = environment(receiver.http_endpoint, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        command = ("python", "-m", "llama_cpp.server", *arguments)
        with serving(*command, env=env, port=port, stop=signal.SIGINT, health="/v1/models"):
            with post(port, "/v1/completions", prompt="hello", max_tokens=4) as response:
                usage = json.load(response)["usage"]
            messages = [{"role": "user", "content": "hi"}]
            with post(port, "/v1/chat/completions", messages=messages, max_tokens=3, stream=True) as response:
                assert response.read().decode().rstrip().endswith("[DONE]")

        spans = sorted(our_spans(receiver), key=lambda span: span.start_ns)
        outside = {span.span_id: span.name for span in receiver.received.spans}
    assert [span.name for span in spans] == [
        f"text_completion {tiny_gguf.NAME}",
        f"chat {tiny_gguf.NAME}",
    ]
    completion, chat = (dict(span.attributes) for span in spans)
    assert (completion["gen_ai.usage.input_tokens"], completion["gen_ai.usage.output_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert (chat["gen_ai.usage.output_tokens"], chat["gen_ai.response.finish_reasons"]) == (3, ("length",))
    assert sum(counts_by_process(receiver).values()) == 2
    if any(span.kind == 2 for span in receiver.received.spans):
        assert [outside[span.parent_id] for span in spans] == [
            "POST /v1/completions",
            "POST /v1/chat/completions",
        ]
