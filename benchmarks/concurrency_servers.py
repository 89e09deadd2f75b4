"""The hint and the limiter on real servers, beside the best fixed limit.

    python benchmarks/concurrency_servers.py {onnx,vllm} [--seconds 20] [--rounds 3] [--write docs/concurrency-benchmark.md]

A real server runs on one CPU, and clients on another: an ONNX model under uvicorn, or vLLM's OpenAI server with a
small random model. Requests come as a Poisson process, 1.3 times as many as it can serve. First the load grows from nothing
while there is no limit: the hint that the process then publishes is kept. Then fixed limits are swept; then the best of
them, the hint as a fixed limit, and the limiter take turns. Goodput is the requests per second that kept the SLO.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OVERLOAD = 1.3
TARGET = 0.95
WARM_UP = 4.0


@dataclass
class Slo:
    """Seconds; None is no promise."""

    latency: float | None = None
    ttft: float | None = None
    tpot: float | None = None

    def met(self, answer):
        return answer.status == 200 and all(
            limit is None or (value is not None and value <= limit)
            for value, limit in (
                (answer.end - answer.start, self.latency),
                (answer.ttft, self.ttft),
                (answer.tpot, self.tpot),
            )
        )

    def setting(self):
        parts = {"e2e": self.latency, "ttft": self.ttft, "tpot": self.tpot}
        return ", ".join(f"{name}=99%<{limit * 1e3:g}ms" for name, limit in parts.items() if limit)


@dataclass
class Answer:
    """What a client saw."""

    start: float
    end: float = 0.0
    status: int = 0
    first: float | None = None
    chunks: int = 0

    @property
    def ttft(self):
        return None if self.first is None else self.first - self.start

    @property
    def tpot(self):
        if self.first is None or self.chunks < 2:
            return None
        return (self.end - self.first) / (self.chunks - 1)


class Onnx:
    """An ONNX model under uvicorn."""

    name = "onnx"
    title = "ONNX Runtime under uvicorn"
    model = "model"
    slo = Slo(latency=0.15)
    busy_clients = 8
    sweep = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

    def command(self, launcher, port, _folder):
        return [
            launcher, sys.executable, "-m", "uvicorn", "server_onnx:app", "--app-dir", str(HERE),
            "--port", str(port), "--log-level", "warning",
        ]  # fmt: skip

    paths = "/predict"

    @staticmethod
    def request(_chance):
        return b"GET /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class Vllm:
    """vLLM's OpenAI server with a tiny model."""

    name = "vllm"
    title = "vLLM's OpenAI server, a small model on the CPU"
    model = "tiny"
    slo = Slo(ttft=0.4, tpot=0.035)
    busy_clients = 24
    sweep = (8, 16, 20, 24, 28, 32, 40, 48)
    paths = "/v1/completions"

    def command(self, launcher, port, folder):
        sys.path.insert(0, str(HERE.parent))
        from tests.support.tiny_vllm import ENVIRONMENT

        os.environ.update(ENVIRONMENT)
        return [
            launcher, sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--model", self.save(Path(folder) / "llama"), "--served-model-name", "tiny", "--dtype", "float32",
            "--enforce-eager", "--max-model-len", "128", "--port", str(port), "--middleware", "server_gate.Gate",
            "--disable-uvicorn-access-log",
        ]  # fmt: skip

    @staticmethod
    def save(folder):
        """A random model that is large enough for its work to matter beside that of the server."""
        import torch
        import transformers

        from tests.frameworks.tiny_hf import BOS, EOS, PAD, VOCABULARY, make_tokenizer

        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=256,
            bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
        )  # fmt: skip
        transformers.LlamaForCausalLM(config).eval().save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return str(folder)

    @staticmethod
    def request(chance):
        body = json.dumps(
            {
                "model": "tiny",
                "prompt": f"the quick brown fox {chance.randrange(10**6)}",
                "max_tokens": chance.randint(20, 60),
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


SERVERS = {each.name: each for each in (Onnx, Vllm)}


# --- the server ---------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(server, port):
    """The server, on the first CPU."""
    launcher = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent))
    cpus = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        command = server.command(launcher, port, folder)
        environment = {
            **os.environ,
            **{f"OTEL_{each}_EXPORTER": "none" for each in ("TRACES", "METRICS", "LOGS")},
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
            "GATE_MODEL": server.model,
            "OTEL_AIMON_LIMITER": "enforce",
            "OTEL_AIMON_SLOS": server.slo.setting(),
            "OTEL_AIMON_LOCK_DIRECTORY": folder,
            "GATE_PATHS": server.paths,
        }
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus[:1]),
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 400
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"the server did not start: {log.read()[-3000:]}")
                time.sleep(0.5)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _answers(port):
    try:
        get(port, "/hint")
    except (OSError, ValueError):
        return False
    return True


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        return json.load(response)


# --- the clients --------------------------------------------------------------------------------


async def ask(port, request):
    """Send one request, and time what comes back."""
    answer = Answer(time.monotonic())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        answer.end = time.monotonic()
        return answer
    try:
        writer.write(request)
        status = await reader.readline()
        answer.status = int(status.split()[1]) if status else 0
        while data := await reader.read(65536):
            found = data.count(b"data: {")
            if found:
                now = time.monotonic()
                answer.first = answer.first or now
                answer.chunks += found
    except (OSError, ValueError, IndexError):
        answer.status = 0
    finally:
        answer.end = time.monotonic()
        writer.close()
    return answer


async def closed_loop(server, port, clients, seconds):
    """Requests per second of so many clients that wait for their answers."""
    until = time.monotonic() + seconds
    chance = random.Random(1)
    answers = []

    async def client():
        while time.monotonic() < until:
            answers.append(await ask(port, server.request(chance)))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


async def open_loop(server, port, rate, seconds, seed):
    """A Poisson process; ``rate`` is a function of the seconds that passed."""
    chance = random.Random(seed)
    start = time.monotonic()
    due, running = 0.0, []
    while due < seconds:
        due += chance.expovariate(rate(due))
        await asyncio.sleep(max(0.0, start + due - time.monotonic()))
        running.append(asyncio.create_task(ask(port, server.request(chance))))
    return await asyncio.gather(*running)


def goodput(server, answers, seconds):
    """Requests per second that kept the SLO, of those that came after the warm-up."""
    begin = min(answer.start for answer in answers) + WARM_UP
    good = sum(server.slo.met(answer) for answer in answers if answer.start >= begin)
    return good / (seconds - WARM_UP)


# --- the benchmark ------------------------------------------------------------------------------


class Benchmark:
    def __init__(self, server, port, seconds):
        self.server, self.port, self.seconds = server, port, seconds
        self.rate = 1.0
        self.seed = 0

    def measure(self, mode, limit=0.0):
        """Goodput under one limit."""
        get(self.port, f"/gate?mode={mode}&limit={limit}")
        self.seed += 1
        answers = asyncio.run(open_loop(self.server, self.port, lambda _: self.rate, self.seconds, self.seed))
        found = goodput(self.server, answers, self.seconds)
        print(f"  {mode:8} {limit:6.1f}: {found:7.2f}/s", file=sys.stderr, flush=True)
        return found

    def calibrate(self):
        """Requests per second that it can serve."""
        get(self.port, "/gate?mode=off")
        asyncio.run(closed_loop(self.server, self.port, 2, 3))
        answers = asyncio.run(closed_loop(self.server, self.port, self.server.busy_clients, 8))
        capacity = sum(answer.status == 200 for answer in answers) / 8
        tpots = [answer.tpot for answer in answers if answer.tpot]
        mean = f", TPOT {statistics.mean(tpots) * 1e3:.1f} ms" if tpots else ""
        print(
            f"  capacity {capacity:.1f}/s with {self.server.busy_clients} clients{mean}",
            file=sys.stderr,
            flush=True,
        )
        self.rate = OVERLOAD * capacity
        return capacity

    def hint(self, capacity):
        """What the process publishes when the load has grown from nothing to a little too much."""
        get(self.port, "/gate?mode=off")
        length = 60.0
        asyncio.run(
            open_loop(
                self.server, self.port, lambda passed: capacity * (0.1 + 1.05 * passed / length), length, 0
            )
        )
        known = get(self.port, "/hint")
        print(f"  {known}", file=sys.stderr, flush=True)
        return known

    def run(self, rounds):
        capacity = self.calibrate()
        known = self.hint(capacity)
        hinted = float(known["limit"] or 1.0)
        sweep = {limit: self.measure("static", limit) for limit in self.server.sweep}
        best = max(sweep, key=sweep.get)
        # Half a minute to find its limit, as after a deployment.
        for _ in range(2):
            self.measure("limiter")
        turns = {"best": [], "hint": [], "limiter": []}
        for _ in range(rounds):
            turns["best"].append(self.measure("static", best))
            turns["hint"].append(self.measure("static", max(1, round(hinted))))
            turns["limiter"].append(self.measure("limiter"))
        means = {name: statistics.mean(values) for name, values in turns.items()}
        return {
            "server": self.server.name,
            "slo": self.server.slo.setting(),
            "rate": self.rate,
            "sweep": sweep,
            "best": best,
            "hint": hinted,
            "basis": known["basis"],
            "limiter": get(self.port, "/hint")["limiter"],
            "goodput": means,
            "hint_share": means["hint"] / means["best"],
            "limiter_share": means["limiter"] / means["best"],
        }


def plot(figures, path):
    """Goodput over the limit, as an SVG."""
    from math import log

    width, height, left, bottom = 640, 320, 60, 50
    top_value = 1.1 * max(*figures["sweep"].values(), *figures["goodput"].values())

    def x(limit):
        return left + (width - left - 20) * log(limit) / log(max(figures["sweep"]))

    def y(value):
        return height - bottom - (height - bottom - 20) * value / top_value

    points = " ".join(f"{x(limit):.1f},{y(value):.1f}" for limit, value in figures["sweep"].items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<line x1="{left}" y1="{y(0)}" x2="{width - 20}" y2="{y(0)}" stroke="black"/>',
        f'<line x1="{left}" y1="{y(0)}" x2="{left}" y2="20" stroke="black"/>',
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">fixed limit, requests in flight</text>',
        f'<text transform="translate(16 {height / 2}) rotate(-90)" text-anchor="middle">goodput, requests per second</text>',
        *(
            f'<text x="{x(limit):.1f}" y="{y(0) + 18:.1f}" text-anchor="middle">{limit}</text>'
            for limit in figures["sweep"]
        ),
        *(
            f'<text x="{left - 6}" y="{y(share * top_value) + 4:.1f}" text-anchor="end">{share * top_value:.0f}</text>'
            for share in (0.25, 0.5, 0.75, 1.0)
        ),
        f'<polyline points="{points}" fill="none" stroke="#888" stroke-width="2"/>',
    ]
    for name, colour, limit in (
        ("hint", "#06c", max(1.0, figures["hint"])),
        ("limiter", "#c30", max(1.0, figures["limiter"] or 1.0)),
    ):
        at, value = x(min(limit, max(figures["sweep"]))), y(figures["goodput"][name])
        parts.append(f'<circle cx="{at:.1f}" cy="{value:.1f}" r="6" fill="{colour}"/>')
        offset = -12 if name == "hint" else 20
        parts.append(f'<text x="{at + 8:.1f}" y="{value + offset:.1f}" fill="{colour}">{name}</text>')
    path.write_text("\n".join((*parts, "</svg>")) + "\n", encoding="utf-8")


def text(figures, title):
    rows = "\n".join(
        f"| {name} | {figures['goodput'][name]:.2f} | {figures['goodput'][name] / figures['goodput']['best']:.3f} |"
        for name in ("best", "hint", "limiter")
    )
    return (
        f"{title}; SLO {figures['slo']}; {figures['rate']:.1f} requests per second come. Best fixed limit: {figures['best']}; hint: "
        f"{figures['hint']:.1f} ({figures['basis']}); the limiter ended at {figures['limiter']}. Python {platform.python_version()}, one CPU.\n\n"
        f"| limit | goodput, requests per second | share of the best |\n| --- | ---: | ---: |\n{rows}\n\n"
        f"![goodput over the limit](concurrency-{figures['server']}.svg)\n"
    )


def write(figures, title, page):
    begin, end = f"<!-- server {figures['server']} -->\n", "<!-- end of server -->"
    content = page.read_text(encoding="utf-8")
    head, rest = content.split(begin)
    _, tail = rest.split(end, 1)
    page.write_text(head + begin + text(figures, title) + end + tail, encoding="utf-8")
    plot(figures, page.with_name(f"concurrency-{figures['server']}.svg"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    args = parser.parse_args()
    server = SERVERS[args.server]()
    cpus = sorted(os.sched_getaffinity(0))
    with serving(server, args.port):
        if len(cpus) > 1:
            os.sched_setaffinity(0, cpus[1:])
        figures = Benchmark(server, args.port, args.seconds).run(args.rounds)
    print(json.dumps(figures) if args.json else text(figures, server.title))
    if args.write:
        write(figures, server.title, args.write)
    return 0 if min(figures["hint_share"], figures["limiter_share"]) >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
