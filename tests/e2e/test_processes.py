"""In every kind of process, each request has one span and is counted once, and nobody counts another's."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import (
    command,
    counts_by_process,
    environment,
    free_port,
    our_spans,
    run,
    wait_until,
)

PROTOCOLS = ("grpc", "http/protobuf")


def endpoint(receiver: Receiver, protocol: str) -> str:
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_script(protocol: str) -> None:
    with Receiver() as receiver:
        done = run("python", "script.py", env=environment(endpoint(receiver, protocol), protocol))
        received = receiver.received

    assert done.stderr == ""
    spans = sorted((span.name, span.kind, span.parent_id, span.status) for span in our_spans(receiver))
    assert spans == [
        *[("chat by-hand", 1, "", 0)] * 5,
        ("predict LogisticRegression", 1, "", 0),
        ("run doubling", 1, "", 0),
    ]
    counted = {
        tuple(value for _, value in sorted(point.attributes.items())): point.count
        for point in received.latest_points("aimon.inference.duration")
    }
    assert counted == {
        ("manual", "by-hand", "chat"): 5,
        ("sklearn", "LogisticRegression", "predict"): 1,
        ("onnxruntime", "doubling", "run"): 1,
    }
    tokens = {
        point.attributes["gen_ai.token.type"]: point.value
        for point in received.latest_points("aimon.inference.tokens")
    }
    assert tokens == {"input": 10, "output": 15}
    exemplars = {
        exemplar.trace_id
        for point in received.points  # Not the latest only: each collection takes its exemplars with it.
        for exemplar in point.exemplars
    }
    assert exemplars
    assert exemplars <= {span.trace_id for span in our_spans(receiver)}


def test_metrics_do_not_depend_on_sampling() -> None:
    with Receiver() as receiver:
        run(
            "python",
            "-c",
            "import otel_aimon\nfor _ in range(2000):\n  with otel_aimon.inference('chat', model='m'): pass",
            env=environment(
                receiver.http_endpoint, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.01"
            ),
        )

    assert sum(counts_by_process(receiver).values()) == 2000
    sampled = {span.trace_id for span in our_spans(receiver)}
    assert 0 < len(sampled) < 100
    points = receiver.received.points
    assert {exemplar.trace_id for point in points for exemplar in point.exemplars} <= sampled


def test_a_receiver_that_comes_late_gets_true_counts() -> None:
    port = free_port()
    code = (
        "import otel_aimon, sys, time\n"
        "for _ in range(20):\n  with otel_aimon.inference('chat', model='m'): pass\n"
        "print('served', flush=True); sys.stdin.readline()\n"
        "with otel_aimon.inference('chat', model='m'): pass\n"
    )
    process = subprocess.Popen(
        command("python", "-c", code),
        env=environment(f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_TIMEOUT="1000"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "served\n"
    with Receiver(http_port=port) as receiver:
        wait_until(lambda: sum(counts_by_process(receiver).values()) == 20, "the twenty arrive")
        _, errors = process.communicate("go\n", timeout=60)

    assert process.returncode == 0
    assert sum(counts_by_process(receiver).values()) == 21
    assert "otel_aimon" not in errors
    assert "otel-aimon" not in errors


def test_the_callers_trace_goes_on() -> None:
    code = (
        "import otel_aimon, asyncio\n"
        "from opentelemetry import context, propagate\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "carrier = {'traceparent': '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'}\n"
        "def serve():\n"
        "  token = context.attach(propagate.extract(carrier))\n"
        "  with otel_aimon.inference('chat', model='m'): pass\n"
        "  context.detach(token)\n"
        "serve()\n"
        "with ThreadPoolExecutor(2) as pool: [pool.submit(serve) for _ in range(4)]\n"
        "async def main(): await asyncio.gather(*(asyncio.to_thread(serve) for _ in range(4)))\n"
        "asyncio.run(main())\n"
    )
    with Receiver() as receiver:
        run("python", "-c", code, env=environment(receiver.http_endpoint))

    spans = {(span.trace_id, span.parent_id) for span in our_spans(receiver)}
    assert len(our_spans(receiver)) == 9
    assert spans == {("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")}


def test_a_process_without_frameworks_imports_none() -> None:
    code = (
        "import sys, otel_aimon\n"
        "with otel_aimon.inference('chat', model='m'): pass\n"
        "otel_aimon.force_flush()\n"
        "names = {'torch', 'sklearn', 'transformers', 'onnxruntime', 'sentence_transformers', 'numpy'}\n"
        "assert not names & set(sys.modules), names & set(sys.modules)"
    )
    with Receiver() as receiver:
        run("python", "-c", code, env=environment(receiver.http_endpoint))
    assert len(our_spans(receiver)) == 1


def test_a_disabled_sdk_leaves_the_process_untouched() -> None:
    code = (
        "import otel_aimon, otel_aimon.runtime, sklearn.base\n"
        "with otel_aimon.inference('chat'): pass\n"
        "assert otel_aimon.runtime.current() is None\n"
        "assert sklearn.base.ClassifierMixin.score.__module__ == 'sklearn.base'\n"
        "assert not hasattr(sklearn.base.ClassifierMixin.score, '__wrapped__')"
    )
    with Receiver() as receiver:
        run("python", "-c", code, env=environment(receiver.http_endpoint, OTEL_SDK_DISABLED="true"))
        assert receiver.received.spans == []
        assert receiver.received.points == []


def test_a_declarative_file(tmp_path: Any) -> None:
    with Receiver() as receiver:
        file = tmp_path / "otel.yaml"
        file.write_text(
            f"""
file_format: "1.0"
tracer_provider:
  processors:
    - batch: {{exporter: {{otlp_http: {{endpoint: "{receiver.http_endpoint}/v1/traces"}}}}}}
meter_provider:
  readers:
    - periodic: {{exporter: {{otlp_http: {{endpoint: "{receiver.http_endpoint}/v1/metrics"}}}}}}
instrumentation/development:
  python:
    aimon: {{max_models: 1}}
    aimon_sklearn: {{enabled: false}}
"""
        )
        env = environment(receiver.http_endpoint, OTEL_CONFIG_FILE=str(file))
        done = run("python", "-c", DECLARED, env=env)

    assert "aimon" not in done.stderr
    assert [span.name for span in our_spans(receiver)] == ["chat first", "chat other"]
    assert sum(counts_by_process(receiver).values()) == 2


DECLARED = """
import otel_aimon
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
for model in ("first", "second"):
    with otel_aimon.inference("chat", model=model): pass
rows, labels = load_iris(return_X_y=True)
LogisticRegression(max_iter=500).fit(rows, labels).predict(rows)
"""
