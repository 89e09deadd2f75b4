"""A real Triton server with small models: ``python -m tests.support.triton_server HTTP_PORT GRPC_PORT METRICS_PORT``.

``double`` gives twice what it gets, ``slow`` what it gets after so many seconds, ``broken`` raises, ``total`` takes no batches. ``count`` is decoupled: it
answers as often as it is told to, and so does ``stumble``, which then raises; ``drip`` takes a while between its answers.
``secret`` is what errors say.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SECRET = "do not tell"
MODELS = ("double", "total", "slow", "broken", "count", "stumble", "drip")


class Addresses(NamedTuple):
    """Where a server listens, and its process."""

    http: int
    grpc: int
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End the server at once, whatever it works on; what started it cleans up."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.name() == "tritonserver":
                child.kill()

    def stop(self) -> None:
        """End everything."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)


@contextlib.contextmanager
def triton_server() -> Iterator[Addresses]:
    """Run a server in processes of its own."""
    from tests.e2e.processes import free_port

    ports = [free_port() for _ in range(3)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.triton_server", *map(str, ports)],
            cwd=Path(__file__).resolve().parents[2],
            env=_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Addresses(ports[0], ports[1], process)
        try:
            deadline = time.monotonic() + 120
            while not all(_ready(server.http, model) for model in MODELS):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(output.read().decode(errors="replace"))
                time.sleep(0.1)
            yield server
        finally:
            server.stop()
            output.seek(0)
            # Shown with a test that fails.
            print(output.read().decode(errors="replace")[-20000:])


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    # The server starts Python on its own, from a library that it has to find: that of this interpreter.
    libraries = (sysconfig.get_config_var("LIBDIR"), kept.get("LD_LIBRARY_PATH"))
    return {**kept, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))}


def _ready(port: int, model: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", f"/v2/models/{model}/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serve(http_port: int, grpc_port: int, metrics_port: int) -> None:
    import numpy as np
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    @batch
    def double(x: Any) -> Any:
        return {"y": 2 * x}

    @batch
    def slow(x: Any) -> Any:
        time.sleep(float(x.max()))
        return {"y": x}

    @batch
    def broken(x: Any) -> Any:
        raise ValueError(SECRET)

    def total(requests: Any) -> Any:
        return [{"y": each.data["x"].sum(keepdims=True).reshape(-1)[:1]} for each in requests]

    @batch
    def count(x: Any) -> Any:
        for number in range(int(x.max())):
            yield {"y": np.full_like(x, number)}

    @batch
    def stumble(x: Any) -> Any:
        for _ in range(int(x.max())):
            yield {"y": x}
        raise ValueError(SECRET)

    @batch
    def drip(x: Any) -> Any:
        for number in range(int(x.max())):
            yield {"y": np.full_like(x, number)}
            time.sleep(0.3)

    config = TritonConfig(
        http_address="127.0.0.1", http_port=http_port, grpc_address="127.0.0.1", grpc_port=grpc_port,
        metrics_port=metrics_port, metrics_address="127.0.0.1", exit_on_error=False,
    )  # fmt: skip
    with Triton(config=config) as triton:
        for function in (double, total, slow, broken, count, stumble, drip):
            shape = (-1, -1) if function is total else (-1,)
            triton.bind(
                model_name=function.__name__,
                infer_func=function,
                inputs=[Tensor(name="x", dtype=np.float32, shape=shape)],
                outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
                config=ModelConfig(
                    batching=function is not total,
                    max_batch_size=16,
                    decoupled=function in {count, stumble, drip},
                    batcher=DynamicBatcher(),
                ),
            )
        triton.serve()


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:4]))
