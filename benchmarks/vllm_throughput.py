"""Throughput of vLLM's saturated OpenAI server, with otel-aimon and without it.

    python benchmarks/vllm_throughput.py [--model tiny] [--seconds 4] [--rounds 40] [--write docs/overhead.md]

A server of a random model has the first CPU, all of its processes together, and sends spans and metrics over OTLP. As many
streaming clients as saturate it, on another CPU, load it in turns; each request asks for 128 tokens, as vLLM's own benchmark
does. Between the turns otel-aimon is taken out of the server and put in again, in an order that changes with each round. The
figure is the median over the rounds of the ratio of the output tokens per second. With ``tiny``, whose forward pass takes nearly
nothing, all of the CPU goes to vLLM's front end and scheduler, the worst case for us; ``small`` has work to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Client
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from concurrency_servers import Vllm, closed_loop
from switched import KEY

from tests.support import tiny_vllm

LEAST = 0.98
CLIENTS = 32
MODELS = {"tiny": tiny_vllm.save_llama, "small": Vllm.save}
OUTPUT_TOKENS = 128
START_SECONDS = 400.0
WARM_SECONDS = 3.0
STATES = ("without", "with")


class Load:
    """What each client asks for."""

    @staticmethod
    def request(chance):
        body = json.dumps(
            {
                "model": "tiny",
                "prompt": f"the quick brown fox {chance.randrange(10**6)}",
                "max_tokens": OUTPUT_TOKENS,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Sink(BaseHTTPRequestHandler):
    """Takes what is exported, in a process of its own."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


def take_exports(port):
    ThreadingHTTPServer(("127.0.0.1", port), Sink).serve_forever()


@contextlib.contextmanager
def sink(port):
    """Where the server sends its telemetry."""
    process = multiprocessing.get_context("spawn").Process(target=take_exports, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()


@contextlib.contextmanager
def serving(model, port, environment):
    """A server on the first CPU, and the connection over which otel-aimon is switched in it."""
    launcher = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
    command = [
        launcher, sys.executable, str(Path(__file__).with_name("switched.py")), str(port + 1),
        "vllm.entrypoints.openai.api_server", "--model", model,
        "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--max-model-len", "192",
        "--port", str(port), "--disable-uvicorn-access-log",
    ]  # fmt: skip
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **tiny_vllm.ENVIRONMENT, **environment}, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus[:1]),
        )  # fmt: skip
        try:
            until = time.monotonic() + START_SECONDS
            while not is_up(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise SystemExit(f"the server did not start: {log.read()[-3000:]}")
                time.sleep(0.5)
            with Client(("127.0.0.1", port + 1), authkey=KEY) as switch:
                yield psutil.Process(process.pid), switch
        finally:
            stop(process)


def stop(process):
    """The server's process and its engine's."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def is_up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def cpu_seconds(server):
    """CPU time so far of the front end and of the engine."""
    return sum(sum(each.cpu_times()[:2]) for each in (server, *server.children(recursive=True)))


@dataclass
class Turn:
    """What clients got in one turn of a server.

    Attributes:
        tokens: Output tokens that came, one with each chunk of a stream.
        requests: Requests answered.
        wall: Seconds.
        cpu: CPU seconds of the server.
    """

    tokens: int
    requests: int
    wall: float
    cpu: float


def take_turn(server, port, seconds):
    """Load one server."""
    begin, used = time.monotonic(), cpu_seconds(server)
    answers = asyncio.run(closed_loop(Load, port, CLIENTS, seconds))
    turn = Turn(
        sum(answer.chunks for answer in answers), len(answers), time.monotonic() - begin, cpu_seconds(server) - used
    )  # fmt: skip
    if failed := [answer.status for answer in answers if answer.status != 200]:
        raise SystemExit(f"{len(failed)} requests failed: {sorted(set(failed))}")
    return turn


def measure(server, switch, port, seconds, rounds):
    """The turns in each state, in rounds."""
    turns = {state: [] for state in STATES}
    take_turn(server, port, seconds)
    put(switch, "without")
    for number in range(rounds):
        for state in STATES[:: 1 if number % 2 else -1]:
            put(switch, state)
            warm = take_turn(server, port, WARM_SECONDS)
            turn = take_turn(server, port, seconds)
            observed = put(switch, "without")
            if observed != (warm.requests + turn.requests if state == "with" else 0):
                raise SystemExit(
                    f"{observed} of {warm.requests + turn.requests} requests were observed {state}"
                )
            turns[state].append(turn)
        print(
            f"  throughput {ratios(turns, tokens_per_second)[-1]:.3f}, CPU {ratios(turns, cpu_per_token)[-1]:.3f}",
            file=sys.stderr,
            flush=True,
        )
    return turns


def put(switch, state):
    """Take otel-aimon out of the server, or put it in; how many requests it has observed so far."""
    switch.send(state == "with")
    return switch.recv()


def tokens_per_second(turn):
    return turn.tokens / turn.wall


def cpu_per_token(turn):
    return turn.cpu / turn.tokens


def ratios(turns, figure):
    """A figure with otel-aimon by that without it, of each round."""
    return [figure(ours) / figure(plain) for ours, plain in zip(turns["with"], turns["without"], strict=True)]


def error_of(values):
    """Standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def compare(model, seconds, rounds, port):
    """The figures of one model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": opened.enter_context(sink(port + 2)),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,asgi",
            "OTEL_AIMON_LOCK_DIRECTORY": folder,
        }
        saved = MODELS[model](Path(folder) / "llama")
        server, switch = opened.enter_context(serving(saved, port, environment))
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[1:] or cpus)
        turns = measure(server, switch, port, seconds, rounds)
        os.sched_setaffinity(0, cpus)
    return {
        **{state: statistics.median(tokens_per_second(turn) for turn in turns[state]) for state in STATES},
        "throughput": ratios(turns, tokens_per_second),
        "cpu": ratios(turns, cpu_per_token),
    }


def table(figures):
    rounds = max(len(row["cpu"]) for row in figures.values())
    rows = (
        f"| {name} | {row['without']:.0f} | {row['with']:.0f} | {shown(row['throughput'])} | {shown(row['cpu'])} |"
        for name, row in figures.items()
    )
    note = (
        f"Medians over {rounds} rounds, with the standard error of the mean. {CLIENTS} streaming clients, {OUTPUT_TOKENS} tokens"
        f" each, vLLM {vllm_version()}, Python {platform.python_version()}, one CPU for all of the server."
    )
    head = "| model | tokens per second without | with | ratio | CPU time per token, ratio |"
    lines = [head, "|---|---:|---:|---:|---:|", *rows, "", note]
    return "\n".join(lines)


def shown(values):
    return f"{statistics.median(values):.3f} ± {error_of(values):.3f}"


def vllm_version():
    from vllm import __version__

    return __version__


def write(figures, page):
    begin, end = "<!-- vllm -->\n", "<!-- /vllm -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(head + begin + table(figures) + "\n" + end + rest.split(end, 1)[1], encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--port", type=int, default=8133)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    args = parser.parse_args()
    figures = {model: compare(model, args.seconds, args.rounds, args.port) for model in args.model or MODELS}
    print(table(figures))
    if args.write:
        write(figures, args.write)
    return 0 if min(statistics.median(row["throughput"]) for row in figures.values()) >= LEAST else 1


if __name__ == "__main__":
    raise SystemExit(main())
