"""Optimum, for real: a call of a model is a request, and its sessions are a part of it."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optimum.onnxruntime")

pytestmark = [
    # Optimum and Transformers warn of each other, and the export of what it traces.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning"),
]

import torch
import transformers
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForCustomTasks,
    ORTModelForSequenceClassification,
)

import otel_aimon
from tests.frameworks import hf_spans
from tests.frameworks.request_spans import request_span
from tests.frameworks.tiny_hf import make_tokenizer
from tests.support import tiny_optimum
from tests.support.telemetry import Telemetry

CLASSIFY = "text-classification"
GENERATED = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def span(operation: str, model: str, **known: Any) -> dict[str, Any]:
    made = request_span("optimum", operation, model, **known)
    if operation == "embeddings":
        made["attributes"] |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "optimum",
            "gen_ai.request.model": model,
        }
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_optimum.exported(folder, name) for name in ("llama", "t5", "encoder", "classifier")}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as running:
        yield running


def encoded(*texts: str, **options: Any) -> Any:
    return make_tokenizer()(list(texts), return_tensors="pt", padding=True, **options)


def pair(*texts: str) -> Any:
    """What a model of the BERT family takes."""
    return encoded(*texts, return_token_type_ids=True)


class TestCalls:
    def test_a_call_is_one_request(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        result = exported["classifier"](**pair("hello world", "one"))
        assert type(result) is transformers.modeling_outputs.SequenceClassifierOutput
        assert result.logits.shape == (2, 3)
        assert telemetry.spans() == [span(CLASSIFY, "classifier", batch=2)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "optimum",
            "aimon.operation": CLASSIFY,
            "aimon.model.name": "classifier",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 2)
        assert "aimon.inference.stage.duration" not in metrics

    def test_forward_and_arrays_of_numpy(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        inputs = {name: value.numpy() for name, value in pair("one").items()}
        exported["classifier"].forward(**inputs)
        exported["classifier"](
            *(pair("a", "b", "c")[name] for name in ("input_ids", "attention_mask")),
            pair("a", "b", "c")["token_type_ids"],
        )
        assert telemetry.spans() == [
            span(CLASSIFY, "classifier", batch=1),
            span(CLASSIFY, "classifier", batch=3),
        ]

    def test_embeddings(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["encoder"](**pair("one", "two"))
        assert telemetry.spans() == [span("embeddings", "encoder", batch=2)]
        assert telemetry.counts("gen_ai.server.request.duration") == {("embeddings", "optimum", "encoder"): 1}

    def test_encoder_and_decoder_are_one_model(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["t5"](**encoded("hello"), decoder_input_ids=torch.tensor([[0]]))
        assert telemetry.spans() == [span("forward", "t5", batch=1)]

    def test_one_step_of_a_loop_of_ones_own(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["llama"](**encoded("hello", "one"))
        assert telemetry.spans() == [span("forward", "llama", batch=2)]

    def test_a_model_of_any_other_task(
        self, telemetry: Telemetry, exported: dict[str, Any], tmp_path: Path
    ) -> None:
        exported["encoder"].save_pretrained(tmp_path / "custom")
        model = ORTModelForCustomTasks.from_pretrained(tmp_path / "custom")
        model(**pair("one", "two"))
        assert telemetry.spans() == [span("forward", "custom", batch=2)]

    def test_a_subclass_that_is_defined_later(
        self, telemetry: Telemetry, exported: dict[str, Any], tmp_path: Path
    ) -> None:
        class Mine(ORTModelForSequenceClassification):
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                return super().forward(*args, **kwargs).logits

        exported["classifier"].save_pretrained(tmp_path / "mine")
        assert Mine.from_pretrained(tmp_path / "mine")(**pair("one")).shape == (1, 3)
        assert telemetry.spans() == [span(CLASSIFY, "mine", batch=1)]

    def test_a_part_alone_is_a_session(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["t5"].encoder(**encoded("hello"))
        assert telemetry.spans() == [request_span("onnxruntime", "run", "encoder_model", batch=1)]

    def test_several_threads(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        inputs = pair("one")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: exported["classifier"](**inputs), range(12)))
        assert telemetry.counts() == {("optimum", "classifier", CLASSIFY): 12}

    def test_inside_an_inference_recorded_by_hand(
        self, telemetry: Telemetry, exported: dict[str, Any]
    ) -> None:
        with otel_aimon.inference("judge", model="mine"):
            exported["classifier"](**pair("one"))
        assert telemetry.spans()[1:] == [span(CLASSIFY, "classifier", batch=1, parent="judge mine")]
        assert telemetry.counts() == {("manual", "mine", "judge"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {("optimum", "classifier", CLASSIFY): 1}


class TestErrors:
    def test_an_input_that_is_missing(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="attention_mask is required"):
            exported["encoder"].forward(input_ids=torch.ones(1, 3).long(), token_type_ids=None)
        assert telemetry.spans() == [span("embeddings", "encoder", batch=1, error="ValueError")]
        assert telemetry.counts() == {("optimum", "encoder", "embeddings", "ValueError"): 1}

    def test_more_tokens_than_there_are_positions(
        self, telemetry: Telemetry, exported: dict[str, Any]
    ) -> None:
        with pytest.raises(Exception, match="ONNXRuntimeError") as caught:
            exported["classifier"](**pair("one " * 2000))
        name = f"{type(caught.value).__module__}.{type(caught.value).__qualname__}"
        assert telemetry.spans() == [span(CLASSIFY, "classifier", batch=1, error=name)]

    def test_no_argument_at_all(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            exported["llama"]()
        assert telemetry.spans() == [span("forward", "llama", error="TypeError")]


class TestTransformers:
    """What Transformers does with these models is as with any other."""

    def test_generate_is_one_request(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["llama"].generate(**encoded("hello world", "one"), **GENERATED)
        known = {"batch": 2, "output": 8, "reasons": ("length",) * 2, "ttft": True}
        prompts = int(encoded("hello world", "one")["attention_mask"].sum())
        assert hf_spans.recorded(telemetry) == [hf_spans.expected(model="llama", input=prompts, **known)]
        assert telemetry.counts() == {("transformers", "llama", "text_completion"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {}

    def test_generate_of_encoder_and_decoder(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        exported["t5"].generate(**encoded("one"), **GENERATED)
        prompt = encoded("one")["input_ids"].shape[1]
        assert hf_spans.recorded(telemetry) == [
            hf_spans.expected(model="t5", batch=1, input=prompt, output=4, reasons=("length",), ttft=True)
        ]

    def test_a_generation_that_fails(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="max_new_tokens"):
            exported["llama"].generate(**encoded("hello"), max_new_tokens=-1)
        [found] = telemetry.spans()
        assert (found["name"], found["attributes"]["error.type"]) == ("text_completion llama", "ValueError")

    def test_a_forward_is_a_stage_of_a_pipeline(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        pipeline = transformers.pipeline(CLASSIFY, exported["classifier"], tokenizer=make_tokenizer())
        pipeline("hello")
        assert telemetry.spans() == [
            request_span("transformers", CLASSIFY, "classifier", batch=1),
            span(CLASSIFY, "classifier", batch=1, parent="text-classification classifier"),
        ]
        assert telemetry.counts() == {("transformers", "classifier", CLASSIFY): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {("optimum", "classifier", CLASSIFY): 1}

    def test_a_pipeline_of_optimum(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        from optimum.onnxruntime import pipeline

        made = pipeline("text-generation", exported["llama"], tokenizer=make_tokenizer())
        made("hello", **GENERATED)
        found = hf_spans.recorded(telemetry)
        assert [(each["name"], each["parent"]) for each in found] == [
            ("text_completion llama", None),
            ("text_completion llama", "text_completion llama"),
        ]
        assert found[0]["attributes"]["gen_ai.usage.output_tokens"] == 4
        assert telemetry.counts() == {("transformers", "llama", "text_completion"): 1}


def test_a_pipeline_for_images(telemetry: Telemetry, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    from tests.support.tiny_diffusers import silent, stable_diffusion

    stable_diffusion(tmp_path).save_pretrained(tmp_path / "tiny-sd")
    pipeline = ORTStableDiffusionPipeline.from_pretrained(str(tmp_path / "tiny-sd"), export=True)
    silent(pipeline)("a cat", num_inference_steps=3, output_type="np")
    pipeline.model_save_dir.cleanup()
    [found] = telemetry.spans()
    times = {"aimon.time_per_item", "aimon.diffusion.time_per_step"}
    assert all(found["attributes"].pop(name) > 0 for name in times)
    assert found["attributes"].pop("aimon.diffusion.steps") == 3
    assert found == request_span("diffusers", "generate", "tiny-sd", batch=1)
    assert telemetry.counts() == {("diffusers", "tiny-sd", "generate"): 1}


def test_an_export_is_nobodys_request(telemetry: Telemetry, tmp_path: Path) -> None:
    model = ORTModelForCausalLM.from_pretrained(tiny_optimum.save(tmp_path, "llama"), export=True)
    model._model_save_dir_tempdirectory_instance.cleanup()
    tiny_optimum.exported(tmp_path, "t5")
    assert telemetry.spans() == []
    assert telemetry.counts() == {}


class TestUnchanged:
    def test_everything_is_put_back(self, exported: dict[str, Any]) -> None:
        import optimum.exporters.onnx.convert as convert
        from optimum.onnxruntime.modeling import ORTModel

        def looks() -> list[Any]:
            classes = (ORTModel, ORTModelForSequenceClassification, ORTModelForCausalLM)
            found = [vars(cls).get(name) for cls in classes for name in ("forward", "__init_subclass__")]
            return [*found, convert.onnx_export_from_model]

        before = looks()
        with Telemetry() as telemetry:
            assert looks() != before
            exported["classifier"](**pair("one"))
            assert len(telemetry.spans()) == 1
        assert looks() == before

    def test_signatures_and_pickles(self, telemetry: Telemetry) -> None:
        forward = ORTModelForSequenceClassification.forward
        assert pickle.loads(pickle.dumps(forward)) is forward
        with_us = inspect.signature(forward)
        otel_aimon.uninstrument()
        assert inspect.signature(ORTModelForSequenceClassification.forward) == with_us

    def test_the_same_results(self, telemetry: Telemetry, exported: dict[str, Any]) -> None:
        ours = exported["classifier"](**pair("one")).logits
        otel_aimon.uninstrument()
        assert torch.equal(exported["classifier"](**pair("one")).logits, ours)
