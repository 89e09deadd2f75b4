"""Pipelines: one request per call, whatever the task and the shape of the input."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import otel_aimon
from tests.frameworks.hf_spans import expected, recorded
from tests.frameworks.tiny_hf import make_bert, make_llama, make_t5
from tests.support.telemetry import Telemetry

NEWEST = int(transformers.__version__.split(".")[0]) >= 5
only_before_5 = pytest.mark.skipif(NEWEST, reason="version 5 has no such pipeline")

GREEDY = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("transformers",)) as running:
        yield running


@pytest.fixture
def writer(llama: Any, tokenizer: Any) -> Any:
    return transformers.pipeline("text-generation", model=llama, tokenizer=tokenizer)


@pytest.fixture
def sorter(classifier: Any, tokenizer: Any) -> Any:
    return transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)


def names(telemetry: Telemetry) -> list[str]:
    return [span["name"] for span in recorded(telemetry)]


# --- text generation ---------------------------------------------------------------------------


def test_one_prompt(telemetry: Telemetry, writer: Any) -> None:
    result = writer("hello world", **GREEDY)
    assert result[0]["generated_text"].startswith("hello world")
    tokens = {"input": 2, "output": 3, "reasons": ("length",)}
    assert recorded(telemetry) == [
        expected(batch=1, ttft=True, **tokens),
        expected(parent="text_completion tiny/llama", batch=1, ttft=True, **tokens),
    ]
    key = ("transformers", "tiny/llama", "text_completion")
    assert telemetry.counts() == {key: 1}
    assert telemetry.counts("aimon.inference.stage.duration") == {key: 1}
    points = telemetry.metrics()
    assert [point.count for point in points["gen_ai.server.time_to_first_token"]] == [1]
    assert [point.count for point in points["gen_ai.server.time_per_output_token"]] == [1]


def test_a_list_is_one_request_with_a_stage_per_batch(
    telemetry: Telemetry, writer: Any, tokenizer: Any
) -> None:
    prompts = ["hello world", "fox", "dog"]
    result = writer(prompts, batch_size=2, **GREEDY)
    assert len(result) == 3
    owner, *stages = recorded(telemetry)
    tokens = sum(len(ids) for ids in tokenizer(prompts)["input_ids"])
    assert owner == expected(batch=3, input=tokens, output=9, reasons=("length",) * 3, ttft=True)
    assert [(stage["attributes"]["aimon.batch.size"], stage["parent"]) for stage in stages] == [
        (2, owner["name"]),
        (1, owner["name"]),
    ]
    assert telemetry.counts() == {("transformers", "tiny/llama", "text_completion"): 1}


def test_a_conversation_is_one_item(telemetry: Telemetry, writer: Any, tokenizer: Any) -> None:
    writer([*MESSAGES, {"role": "assistant", "content": "fox"}, *MESSAGES], **GREEDY)
    owner, stage = recorded(telemetry)
    assert owner["name"] == "chat tiny/llama"
    assert owner["attributes"]["aimon.operation"] == "chat"
    assert owner["attributes"]["aimon.batch.size"] == 1
    assert stage["name"] == "text_completion tiny/llama"
    assert telemetry.counts() == {("transformers", "tiny/llama", "chat"): 1}


def test_conversations_are_counted(telemetry: Telemetry, writer: Any) -> None:
    result = writer([MESSAGES, MESSAGES, MESSAGES], **GREEDY)
    assert len(result) == 3
    owner = recorded(telemetry)[0]
    assert owner["name"] == "chat tiny/llama"
    assert owner["attributes"]["aimon.batch.size"] == 3


def test_no_content_leaves(telemetry: Telemetry, writer: Any) -> None:
    writer([{"role": "user", "content": "quick brown fox"}], **GREEDY)
    writer("quick brown fox", **GREEDY)
    everything = "".join(span.to_json() for span in telemetry.raw_spans())
    assert "brown" not in everything


# --- other tasks -------------------------------------------------------------------------------


def test_text_classification(telemetry: Telemetry, sorter: Any) -> None:
    sorter("hello")
    sorter(["hello", "world"])
    sorter({"text": "hello", "text_pair": "world"})
    sorter([{"text": "hello", "text_pair": "world"}] * 3, batch_size=3)
    assert recorded(telemetry) == [
        expected("text-classification", "tiny/bert", batch=size) for size in (1, 2, 1, 3)
    ]
    assert telemetry.counts() == {("transformers", "tiny/bert", "text-classification"): 4}
    assert not [name for name in telemetry.metrics() if name.startswith("gen_ai.")]


def test_a_tuple_has_no_certain_size(telemetry: Telemetry, sorter: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        sorter((1, 2))
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", error="ValueError")]


def test_feature_extraction_is_embeddings(telemetry: Telemetry, tokenizer: Any) -> None:
    pipe = transformers.pipeline("feature-extraction", model=make_bert("Model"), tokenizer=tokenizer)
    pipe(["hello", "world"])
    assert recorded(telemetry) == [expected("embeddings", "tiny/bert", batch=2)]
    counted = telemetry.counts("gen_ai.server.request.duration")
    assert counted == {("embeddings", "transformers", "tiny/bert"): 1}


def test_fill_mask(telemetry: Telemetry, tokenizer: Any) -> None:
    pipe = transformers.pipeline("fill-mask", model=make_bert("ForMaskedLM"), tokenizer=tokenizer)
    pipe("hello [MASK]")
    pipe(["hello [MASK]", "[MASK] fox"])
    assert recorded(telemetry) == [expected("fill-mask", "tiny/bert", batch=size) for size in (1, 2)]


def test_token_classification_takes_words_as_one_item(telemetry: Telemetry, tokenizer: Any) -> None:
    pipe = transformers.pipeline(
        "ner", model=make_bert("ForTokenClassification", num_labels=3), tokenizer=tokenizer
    )
    pipe("hello world")
    pipe(["hello", "world"])
    pipe(["hello", "world"], is_split_into_words=True)
    assert recorded(telemetry) == [
        expected("token-classification", "tiny/bert", batch=size) for size in (1, 2, 1)
    ]


def test_zero_shot_classification_counts_sequences_not_labels(telemetry: Telemetry, tokenizer: Any) -> None:
    model = make_bert("ForSequenceClassification", num_labels=3)
    model.config.label2id = {"entailment": 0, "neutral": 1, "contradiction": 2}
    pipe = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    pipe("hello world", candidate_labels=["fox", "dog", "one"])
    pipe(["hello", "world"], candidate_labels=["fox", "dog", "one"])
    assert recorded(telemetry) == [
        expected("zero-shot-classification", "tiny/bert", batch=size) for size in (1, 2)
    ]


def test_audio_classification_of_arrays(telemetry: Telemetry) -> None:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        num_labels=2,
        classifier_proj_size=8,
        name_or_path="tiny/wav2vec2",
    )
    pipe = transformers.pipeline(
        "audio-classification",
        model=transformers.Wav2Vec2ForSequenceClassification(config).eval(),
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(),
    )
    sound = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    pipe(sound, top_k=1)
    pipe([sound, sound], top_k=1)
    assert recorded(telemetry) == [
        expected("audio-classification", "tiny/wav2vec2", batch=size) for size in (1, 2)
    ]


def test_image_classification(telemetry: Telemetry) -> None:
    image = Image.new("RGB", (16, 16))
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=2,
        name_or_path="tiny/vit",
    )
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    pipe = transformers.pipeline(
        "image-classification",
        model=transformers.ViTForImageClassification(config).eval(),
        image_processor=processor,
    )
    pipe(image, top_k=1)
    pipe([image] * 3, batch_size=3, top_k=1)
    assert recorded(telemetry) == [
        expected("image-classification", "tiny/vit", batch=size) for size in (1, 3)
    ]


@only_before_5
@pytest.mark.parametrize(
    ("task", "operation"),
    [
        ("summarization", "summarization"),
        ("translation_en_to_fr", "translation"),
        ("text2text-generation", "text_completion"),
    ],
)
def test_tasks_that_write(telemetry: Telemetry, t5: Any, tokenizer: Any, task: str, operation: str) -> None:
    pipe = transformers.pipeline(task, model=t5, tokenizer=tokenizer)
    pipe(["hello world fox", "dog"], max_new_tokens=4, min_new_tokens=4, max_length=60, min_length=0)
    owner, *stages = recorded(telemetry)
    assert owner == expected(
        operation,
        "tiny/t5",
        gen_ai="text_completion",
        batch=2,
        input=owner["attributes"]["gen_ai.usage.input_tokens"],
        output=8,
        reasons=("length", "length"),
        ttft=True,
    )
    assert len(stages) == 2


@only_before_5
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_question_answering(telemetry: Telemetry, tokenizer: Any) -> None:
    pipe = transformers.pipeline(
        "question-answering", model=make_bert("ForQuestionAnswering"), tokenizer=tokenizer
    )
    pipe(question="hello ?", context="the quick brown fox")
    pipe(question=["hello ?", "fox ?"], context="the quick brown fox")
    assert recorded(telemetry) == [expected("question-answering", "tiny/bert", batch=size) for size in (1, 2)]


def test_a_pipeline_made_without_a_task_is_called_after_its_class(
    telemetry: Telemetry, classifier: Any, llama: Any, tokenizer: Any
) -> None:
    transformers.TextClassificationPipeline(model=classifier, tokenizer=tokenizer, device=-1)("hello")
    pipe = transformers.TextGenerationPipeline(model=llama, tokenizer=tokenizer, device=-1)
    pipe("hello", **GREEDY)
    assert names(telemetry)[:2] == ["text-classification tiny/bert", "text_completion tiny/llama"]


def test_a_pipeline_of_the_user(telemetry: Telemetry, classifier: Any, tokenizer: Any) -> None:
    class Twice(transformers.Pipeline):
        def _sanitize_parameters(self, **kwargs: Any) -> Any:
            return {}, {}, {}

        def preprocess(self, text: Any) -> Any:
            return self.tokenizer(text, return_tensors="pt")

        def _forward(self, inputs: Any) -> Any:
            return self.model(**inputs)

        def postprocess(self, outputs: Any) -> Any:
            return outputs.logits.shape

    pipe = Twice(model=classifier, tokenizer=tokenizer, task="counting", device=-1)
    assert pipe("hello") == (1, 3)
    assert recorded(telemetry) == [expected("counting", "tiny/bert", batch=1)]


def test_every_pipeline_of_the_framework_comes_to_the_hook() -> None:
    importlib.import_module("transformers.pipelines.base")
    for module in pkgutil.iter_modules(transformers.pipelines.__path__):
        if module.name != "deprecated":
            importlib.import_module(f"transformers.pipelines.{module.name}")
    base = transformers.pipelines.base.Pipeline
    classes = [base]
    for cls in classes:
        classes += cls.__subclasses__()
    overriding = [
        cls for cls in classes[1:] if "__call__" in vars(cls) and cls.__module__.startswith("transformers.")
    ]
    assert len(overriding) > 15
    assert [cls for cls in overriding if "super().__call__(" not in inspect.getsource(cls.__call__)] == []


# --- nesting and errors ------------------------------------------------------------------------


def test_inside_a_request_by_hand(telemetry: Telemetry, writer: Any) -> None:
    with otel_aimon.inference("chat", model="mine"):
        writer("hello", **GREEDY)
    owner, pipeline, generate = recorded(telemetry)
    assert [span["parent"] for span in (pipeline, generate)] == ["chat mine", "text_completion tiny/llama"]
    assert owner["attributes"]["gen_ai.usage.output_tokens"] == 3
    assert telemetry.counts() == {("manual", "mine", "chat"): 1}


def test_a_failing_model(telemetry: Telemetry, tokenizer: Any) -> None:
    model = make_bert("ForSequenceClassification", num_labels=3)
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("secret")

    model.classifier.forward = fail
    with pytest.raises(RuntimeError, match="secret") as raised:
        pipe(["hello", "world"])
    assert raised.traceback[-1].name == "fail"
    assert recorded(telemetry) == [
        expected("text-classification", "tiny/bert", batch=2, error="RuntimeError")
    ]
    assert telemetry.counts() == {("transformers", "tiny/bert", "text-classification", "RuntimeError"): 1}


def test_an_interrupted_generation(telemetry: Telemetry, tokenizer: Any) -> None:
    model = make_llama("tiny/stopped")
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    model.lm_head.forward = interrupt
    with pytest.raises(KeyboardInterrupt):
        pipe("hello", **GREEDY)
    assert [(span["status"], span["attributes"]["error.type"]) for span in recorded(telemetry)] == [
        ("UNSET", "cancelled")
    ] * 2


def test_an_empty_list_fails_or_gives_nothing_as_without_us(telemetry: Telemetry, sorter: Any) -> None:
    if NEWEST:
        with pytest.raises(IndexError):
            sorter([])
        assert recorded(telemetry) == [
            expected("text-classification", "tiny/bert", batch=0, error="IndexError")
        ]
    else:
        assert sorter([]) == []
        assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=0)]


def test_two_tasks_of_one_model_are_two_series(telemetry: Telemetry, t5: Any, tokenizer: Any) -> None:
    model = make_t5("tiny/both")
    text = tokenizer("hello", return_tensors="pt")
    model.generate(**text, max_new_tokens=2, eos_token_id=None)
    transformers.pipeline("feature-extraction", model=model.get_encoder(), tokenizer=tokenizer)("hello")
    operations = {attributes[-1] for attributes in telemetry.counts()}
    assert operations == {"text_completion", "embeddings"}
