"""SGLang's server with its own processes: each request once, with its outcome and the server's token counts.

SGLang's engine plumbing on a CPU: see ``tests/support/sglang_cpu``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sglang", reason="SGLang has an environment of its own: nox -s sglang")

import httpx
import psutil

from otel_aimon import semconv
from otel_aimon.cli.receiver import Receiver, Span
from tests.e2e.processes import (
    answering,
    command,
    environment,
    free_port,
    instance,
    our_spans,
    wait_until,
)
from tests.support.tiny_sglang import (
    CONTEXT,
    ENVIRONMENT,
    TELLS_LOADS,
    TELLS_TIMES,
    arguments,
    with_shim,
)

pytestmark = pytest.mark.slow

REQUESTS = 36
LONG = CONTEXT - 28
START = 300.0
"""Seconds: a server is three processes, each of which imports SGLang."""
HTTP = importlib.util.find_spec("opentelemetry.instrumentation.fastapi") is not None
DEAD = "engine_dead"

Interface = str
"""``chat``, ``completions``, or ``generate``, SGLang's own."""
INTERFACES: tuple[Interface, ...] = ("chat", "completions", "generate")
_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "generate": "/generate"}


@dataclass
class Answer:
    """What a client saw of its request."""

    interface: Interface = "completions"
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    cancelled: bool = False
    status: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    prompts: int = 1

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{secrets.token_hex(8)}-01"}


class Client:
    """Sends requests with a trace each."""

    def __init__(self, port: int) -> None:
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=START, limits=httpx.Limits(max_connections=None)
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.http.aclose()

    async def stream(
        self, interface: Interface, tokens: int, *, leave: bool = False, started: list[str] | None = None
    ) -> Answer:
        """Send a streamed request; with ``leave``, hang up after its first chunk."""
        answer = Answer(interface, cancelled=leave)
        async with self.http.stream(
            "POST", _PATHS[interface], json=_body(interface, tokens), headers=answer.headers
        ) as response:
            answer.status = response.status_code
            async for chunk in _chunks(response):
                if started is not None and answer.trace_id not in started:
                    started.append(answer.trace_id)
                if leave:
                    break
                answer.usage = chunk.get("usage") or chunk.get("meta_info") or answer.usage
        return answer

    async def whole(self, prompts: int = 1, **body: Any) -> Answer:
        """Send a request that is not streamed."""
        answer = Answer(prompts=prompts)
        response = await self.http.post(
            "/v1/completions", json={"model": "tiny", **body}, headers=answer.headers
        )
        answer.status = response.status_code
        answer.usage = response.json().get("usage") or {}
        return answer


def _body(interface: Interface, tokens: int) -> dict[str, Any]:
    if interface == "generate":
        sampling = {"max_new_tokens": tokens, "ignore_eos": True}
        return {"text": f"the quick brown fox {tokens}", "sampling_params": sampling, "stream": True}
    prompt: dict[str, Any] = {"prompt": f"the quick brown fox {tokens}"}
    if interface == "chat":
        prompt = {"messages": [{"role": "user", "content": f"hello {tokens}"}]}
    return {
        "model": "tiny",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **prompt,
    }


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def outcome(span: Span) -> str | None:
    """``error.type`` of a request."""
    found = span.attributes.get(semconv.ERROR_TYPE)
    return None if found is None else str(found)


@dataclass
class Server:
    """SGLang under ``opentelemetry-instrument``."""

    process: subprocess.Popen[bytes]
    port: int
    receiver: Receiver
    log: Path

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        self.process.wait(START)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Another process makes it, so that this one does not import torch.
    path = tmp_path_factory.mktemp("models") / "llama"
    code = "import sys, pathlib; from tests.support.tiny_sglang import save_llama; save_llama(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path(__file__).parents[2])
    return str(path)


@pytest.fixture
def instrumented_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes that SGLang starts be instrumented too, which ``opentelemetry-instrument`` does not."""
    folder = tmp_path / "children"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from opentelemetry.instrumentation.auto_instrumentation import initialize\ninitialize()\n"
    )
    monkeypatch.setenv("PYTHONPATH", with_shim(str(folder)))


@pytest.fixture
def server(tmp_path: Path, folder: str) -> Iterator[Server]:
    port = free_port()
    log = tmp_path / "server.log"
    with Receiver() as receiver, log.open("w") as output:
        env = environment(receiver.http_endpoint, **ENVIRONMENT)
        env["PYTHONPATH"] = with_shim(env["PYTHONPATH"])
        options = ("--served-model-name", "tiny", "--enable-cache-report")
        process = subprocess.Popen(
            command(
                *("python", "-m", "sglang.launch_server", "--model-path", folder, *options, *arguments()),
                *("--host", "127.0.0.1", "--port", str(port)),
            ),
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        try:
            up = lambda: bool(answering(port))  # noqa: E731
            wait_until(lambda: process.poll() is not None or up(), "the server answers", START)
            assert process.poll() is None, log.read_text()
            yield Server(process, port, receiver, log)
        finally:
            for each in [*_children(process.pid), process]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    each.kill()
            process.wait()
            # Shown with a test that fails.
            print(log.read_text())
    assert "otel-aimon failed" not in log.read_text()


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def test_every_request_is_accounted_for(instrumented_children: None, server: Server) -> None:
    answers = asyncio.run(_all_of_it(server.port))
    asked = sum(answer.prompts for answer in answers)
    wait_until(lambda: len(our_spans(server.receiver)) >= asked, "the spans arrive")
    left = asyncio.run(_until_shutdown(server))
    _check_answers(server.receiver, answers)
    _check_processes(server.receiver)
    # SGLang completes what it has before it ends.
    found = {span.trace_id: span for span in our_spans(server.receiver)}
    assert [outcome(found[trace_id]) for trace_id in left] == [None] * len(left)
    tokens = [found[trace_id].attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] for trace_id in left]
    assert tokens == [LONG] * len(left)


async def _all_of_it(port: int) -> list[Answer]:
    async with Client(port) as client:
        answers = list(
            await asyncio.gather(
                *(
                    client.stream(INTERFACES[number // 3 % 3], LONG, leave=True)
                    if number % 3 == 0
                    else client.stream(INTERFACES[number // 3 % 3], 4 + number % 7)
                    for number in range(REQUESTS)
                )
            )
        )
        answers.append(
            await client.whole(prompt="hello", max_tokens=3, n=2, ignore_eos=True, temperature=1.0)
        )
        answers.append(
            await client.whole(prompt=["hello world", "the fox"], max_tokens=3, ignore_eos=True, prompts=2)
        )
        answers.append(await client.whole(prompt="hello " * CONTEXT, max_tokens=3))
    assert answers[-1].status == 400
    return answers


async def _until_shutdown(server: Server) -> list[str]:
    """More requests than the server can end at once, and its end; returns their traces."""
    started: list[str] = []
    async with Client(server.port) as client:
        tasks = [asyncio.create_task(client.stream("completions", LONG, started=started)) for _ in range(8)]
        while len(started) < 4:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
    await asyncio.to_thread(server.process.wait, START)
    return started


def _check_answers(receiver: Receiver, answers: list[Answer]) -> None:
    spans = our_spans(receiver)
    by_trace = Counter(span.trace_id for span in spans)
    assert {answer.trace_id: answer.prompts for answer in answers} == {
        answer.trace_id: by_trace[answer.trace_id] for answer in answers
    }
    expected: Counter[tuple[str, str | None]] = Counter()
    for answer in answers:
        mine = [span for span in spans if span.trace_id == answer.trace_id]
        for span in mine:
            expected[span.name, outcome(span)] += 1
        _check_answer(answer, mine)
    cancelled = sum(count for (_, how), count in expected.items() if how == "cancelled")
    assert cancelled == REQUESTS // 3
    assert {name for name, _ in expected} == {"chat tiny", "text_completion tiny"}
    if HTTP:
        servers = {span.span_id: span for span in receiver.received.spans if span.kind == 2}
        for span in spans:
            assert servers[span.parent_id].name.startswith("POST /")


def _check_answer(answer: Answer, spans: list[Span]) -> None:
    told = [span.attributes for span in spans]
    if answer.cancelled:
        assert [outcome(span) for span in spans] == ["cancelled"]
        assert 0 < told[0][semconv.GEN_AI_USAGE_OUTPUT_TOKENS] < LONG
    elif answer.status == 200:
        assert {outcome(span) for span in spans} == {None}
        assert _sum(told, semconv.GEN_AI_USAGE_INPUT_TOKENS) == answer.usage["prompt_tokens"]
        assert _sum(told, semconv.GEN_AI_USAGE_OUTPUT_TOKENS) == answer.usage["completion_tokens"]
        details = answer.usage.get("prompt_tokens_details") or {}
        cached = answer.usage.get("cached_tokens", details.get("cached_tokens"))
        if cached is not None and "n" not in answer.usage:
            assert _sum(told, semconv.GEN_AI_USAGE_CACHED_TOKENS) <= answer.usage["prompt_tokens"]
        for span in spans:
            if answer.interface != "completions" or answer.prompts == 1:
                _check_times(span)
    else:
        assert [outcome(span) for span in spans] == ["ValueError"]


def _sum(told: list[dict[str, Any]], name: str) -> int:
    return sum(attributes[name] for attributes in told)


def _check_times(span: Span) -> None:
    if TELLS_TIMES:
        assert span.attributes[semconv.AIMON_QUEUE_DURATION] >= 0
        assert span.attributes[semconv.AIMON_PREFILL_DURATION] > 0
        assert span.attributes[semconv.AIMON_DECODE_DURATION] > 0
    if semconv.AIMON_TIME_TO_FIRST_TOKEN in span.attributes:
        assert 0 < span.attributes[semconv.AIMON_TIME_TO_FIRST_TOKEN] <= span.seconds


def _check_processes(receiver: Receiver) -> None:
    """Requests and engines are told by one of several processes, and counted as often as there are spans."""
    spans = our_spans(receiver)
    assert {span.attributes["aimon.framework"] for span in spans} == {"sglang"}
    [front] = {instance(span) for span in spans}
    counted: Counter[str | None] = Counter()
    for point in receiver.received.latest_points("aimon.inference.duration"):
        assert instance(point) == front
        counted[point.attributes.get("error.type")] += point.count or 0
    assert counted == Counter(outcome(span) for span in spans)
    told_of_themselves = receiver.received.latest_points("process.memory.usage")
    assert len({instance(point) for point in told_of_themselves}) > 1
    for metric in ("running", "waiting") if TELLS_LOADS else ():
        points = receiver.received.latest_points(f"aimon.engine.requests.{metric}")
        assert [(instance(point), point.attributes["aimon.engine.id"]) for point in points] == [(front, "0")]
    [queries] = receiver.received.latest_points("aimon.engine.prefix_cache.queries")
    assert queries.value
    assert queries.attributes["aimon.model.name"] == "tiny"


def test_the_scheduler_dies(server: Server) -> None:
    started = asyncio.run(_until_death(server))
    spans = {span.trace_id: span for span in our_spans(server.receiver)}
    assert {trace_id: outcome(spans[trace_id]) for trace_id in started} == dict.fromkeys(started, DEAD)
    counted = {
        point.attributes.get("error.type"): point.count
        for point in server.receiver.received.latest_points("aimon.inference.duration")
    }
    assert counted[DEAD] >= len(started)


async def _until_death(server: Server) -> list[str]:
    """Requests whose scheduler is killed; returns their traces."""
    started: list[str] = []
    async with Client(server.port) as client:
        tasks = [asyncio.create_task(client.stream("generate", LONG, started=started)) for _ in range(4)]
        while len(started) < 4:
            await asyncio.sleep(0.01)
        [scheduler] = [
            each for each in _children(server.process.pid) if "scheduler" in " ".join(each.cmdline())
        ]
        scheduler.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(server.process.wait, 5)
        if server.process.poll() is None:
            # Old versions only know of a scheduler that has failed and says so, in this way.
            server.process.send_signal(signal.SIGQUIT)
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(server.process.wait, START)
    return started
