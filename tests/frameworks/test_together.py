"""Several frameworks in one process: one on top of the other, and side by side."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import otel_aimon
from tests.frameworks import tiny_onnx
from tests.frameworks.tiny_onnx import rows
from tests.support.telemetry import Telemetry

IRIS, SPECIES = load_iris(return_X_y=True)
BY_HAND = ("manual", "flowers", "classify")
PIPELINE = ("sklearn", "Pipeline(Exported)", "predict")
SESSION = ("onnxruntime", "tiny_linear", "run")


class Exported(ClassifierMixin, BaseEstimator):
    """A last step whose model runs in ONNX Runtime."""

    def __init__(self, session: Any = None) -> None:
        self.session = session

    def fit(self, X: Any, y: Any) -> Exported:
        self.classes_ = np.unique(y)
        self.predict(X)
        return self

    def predict(self, X: Any) -> Any:
        return self.session.run(["label"], {"x": X.astype(np.float32)})[0]

    def __sklearn_is_fitted__(self) -> bool:
        return True


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("sklearn", "onnxruntime", "transformers", "torch")) as running:
        yield running


@pytest.fixture
def pipeline() -> Pipeline:
    return make_pipeline(StandardScaler(), Exported(tiny_onnx.session())).fit(IRIS, SPECIES)


def test_a_pipeline_that_ends_in_a_session_inside_a_request_by_hand(
    telemetry: Telemetry, pipeline: Pipeline
) -> None:
    with otel_aimon.inference("classify", model="flowers", batch_size=3) as call:
        assert pipeline.predict(IRIS[:3]).shape == (3,)
        call.finish_reason("stop")
    assert [(span["name"], span["parent"]) for span in telemetry.spans()] == [
        ("classify flowers", None),
        ("predict Pipeline(Exported)", "classify flowers"),
    ]
    metrics = telemetry.metrics()
    assert [
        (point.attributes["aimon.framework"], point.count) for point in metrics["aimon.inference.duration"]
    ] == [("manual", 1)]
    [stage] = metrics["aimon.inference.stage.duration"]
    assert (stage.attributes["aimon.framework"], stage.count) == ("sklearn", 1)


def test_a_pipeline_that_ends_in_a_session(telemetry: Telemetry, pipeline: Pipeline) -> None:
    pipeline.predict(IRIS[:3])
    assert [(span["name"], span["parent"]) for span in telemetry.spans()] == [
        ("predict Pipeline(Exported)", None)
    ]
    assert telemetry.counts() == {PIPELINE: 1}


def test_a_failure_deep_inside_fails_each_layer_once(telemetry: Telemetry, pipeline: Pipeline) -> None:
    pipeline[-1].session = tiny_onnx.session(tiny_onnx.addition())
    with pytest.raises(ValueError, match="missing"), otel_aimon.inference("classify", model="flowers"):
        pipeline.predict(IRIS[:3])
    assert [(span["name"], span["status"]) for span in telemetry.spans()] == [
        ("classify flowers", "ERROR"),
        ("predict Pipeline(Exported)", "ERROR"),
    ]
    assert telemetry.counts() == {(*BY_HAND, "ValueError"): 1}


def test_a_pool_of_threads_that_serves_them_all(telemetry: Telemetry, pipeline: Pipeline) -> None:
    session = tiny_onnx.session()

    def by_hand() -> None:
        with otel_aimon.inference("classify", model="flowers"):
            pipeline.predict(IRIS[:2])
            session.run(None, {"x": rows(1)})

    jobs = {
        BY_HAND: by_hand,
        PIPELINE: lambda: pipeline.predict(IRIS[:3]),
        SESSION: lambda: session.run(None, {"x": rows(2)}),
        ("sklearn", "StandardScaler", "transform"): lambda: pipeline[0].transform(IRIS),
    }
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(job) for _ in range(25) for job in jobs.values()]:
            done.result()
    assert telemetry.counts() == dict.fromkeys(jobs, 25)
    # Each request by hand has its two stages, and no other request has any.
    parents = [span["parent"] for span in telemetry.spans()]
    assert parents.count("classify flowers") == 50
    assert parents.count(None) == 100


def test_four_frameworks_at_once(telemetry: Telemetry, pipeline: Pipeline) -> None:
    import torch

    from tests.frameworks.tiny_hf import make_llama, make_tokenizer

    tokenizer, llama, session = make_tokenizer(), make_llama(), tiny_onnx.session()
    prompt = tokenizer("hello world", return_tensors="pt")

    def generate() -> None:
        llama.generate(**prompt, max_new_tokens=3, do_sample=False, eos_token_id=None)

    linear = torch.nn.Linear(4, 2).eval()

    def forward() -> None:
        with torch.inference_mode():
            linear(torch.ones(3, 4))

    jobs = {
        ("torch", "Linear", "forward"): forward,
        ("transformers", "tiny/llama", "text_completion"): generate,
        PIPELINE: lambda: pipeline.predict(IRIS[:3]),
        SESSION: lambda: session.run(None, {"x": rows(2)}),
    }
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(job) for _ in range(5) for job in jobs.values()]:
            done.result()
    assert telemetry.counts() == dict.fromkeys(jobs, 5)
    assert len(telemetry.spans()) == 20


def test_tasks_of_an_event_loop(telemetry: Telemetry, pipeline: Pipeline) -> None:
    async def serve(number: int) -> None:
        async with otel_aimon.inference("classify", model="flowers"):
            await asyncio.sleep(0)
            await asyncio.to_thread(pipeline.predict, IRIS[: number + 1])

    async def main() -> None:
        await asyncio.gather(*(serve(number) for number in range(5)))

    asyncio.run(main())
    assert telemetry.counts() == {BY_HAND: 5}
    stages = [span for span in telemetry.spans() if span["parent"]]
    assert sorted(span["attributes"]["aimon.batch.size"] for span in stages) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("when", ["before", "after"])
def test_frameworks_imported_before_or_after(when: str) -> None:
    code = """
        import sys, warnings
        from tests.support.telemetry import Telemetry

        def use():
            from sklearn.preprocessing import StandardScaler
            from tests.frameworks import tiny_onnx

            data = tiny_onnx.rows(2)
            StandardScaler().fit(data).transform(data)
            tiny_onnx.session().run(None, {"x": data})

        if sys.argv[1] == "before":
            use()
        with Telemetry(frameworks=("sklearn", "onnxruntime")) as telemetry:
            assert not {"torch", "transformers"} & set(sys.modules)
            assert sys.argv[1] == "before" or not {"sklearn", "onnxruntime"} & set(sys.modules)
            use()
            print(sorted(telemetry.counts().items()))
        use()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), when], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [(SESSION, 1), (("sklearn", "StandardScaler", "transform"), 1)]
    assert done.stdout.strip() == str(expected)
