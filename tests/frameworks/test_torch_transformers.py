"""Models of Transformers are roots: requests by themselves, stages of pipelines, silent in generation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.frameworks.tiny_hf import make_bert, make_llama, make_t5, make_tokenizer
from tests.frameworks.torch_models import forward
from tests.support.telemetry import Telemetry

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
GENERATED = {("transformers", "tiny/llama", "text_completion"): 1}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("torch", "transformers")) as running:
        yield running


def test_a_model_by_itself_is_a_request(telemetry: Telemetry) -> None:
    model = make_bert("ForSequenceClassification")
    with torch.inference_mode():
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS))

    assert telemetry.spans() == [forward("tiny/bert")]


def test_a_loaded_model_is_a_request(telemetry: Telemetry, tmp_path: Path) -> None:
    transformers.BertModel(make_bert("Model").config).save_pretrained(tmp_path / "mine")
    model = transformers.AutoModel.from_pretrained(tmp_path / "mine")
    with torch.inference_mode():
        model(IDS)

    assert telemetry.spans() == [forward("mine")]


def test_in_a_pipeline_it_is_a_stage(telemetry: Telemetry) -> None:
    model = make_bert("ForSequenceClassification")
    classify = transformers.pipeline("text-classification", model, tokenizer=make_tokenizer())
    classify("hello world")

    request, stage = telemetry.spans()
    assert (request["name"], request["parent"]) == ("text-classification tiny/bert", None)
    attributes = {**forward("tiny/bert")["attributes"], "aimon.batch.size": 1}
    assert stage == forward("tiny/bert", parent=request["name"], attributes=attributes)
    assert telemetry.counts() == {("transformers", "tiny/bert", "text-classification"): 1}
    assert telemetry.counts("aimon.inference.stage.duration") == {("torch", "tiny/bert", "forward"): 1}


@pytest.mark.parametrize("make", [make_llama, make_t5])
def test_in_generate_it_is_silent(telemetry: Telemetry, make: Any) -> None:
    model = make()
    model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=None)

    assert [span["name"] for span in telemetry.spans()] == [f"text_completion {model.config._name_or_path}"]


def test_in_a_streamed_generation_it_is_silent(telemetry: Telemetry) -> None:
    model, tokenizer = make_llama(), make_tokenizer()
    streamer = transformers.TextStreamer(tokenizer)
    model.generate(IDS[:1], max_new_tokens=3, do_sample=False, eos_token_id=None, streamer=streamer)

    assert telemetry.counts() == GENERATED
    assert len(telemetry.spans()) == 1


@pytest.mark.skipif(
    not hasattr(transformers, "ContinuousBatchingConfig"), reason="this version batches otherwise"
)
def test_in_continuous_batching_it_is_silent(telemetry: Telemetry) -> None:
    model = make_llama()
    model.generate_batch(
        inputs=[[40, 41, 42]],
        generation_config=transformers.GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1),
        continuous_batching_config=transformers.ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=32),
    )

    assert telemetry.counts() == GENERATED
    assert len(telemetry.spans()) == 1
