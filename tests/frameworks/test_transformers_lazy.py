"""Lazy results of pipelines: a request starts with the first step and ends with the iteration."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers.pipelines.pt_utils import KeyDataset, PipelineIterator

from tests.frameworks.hf_spans import expected, recorded
from tests.frameworks.tiny_hf import make_bert
from tests.support.telemetry import Telemetry

NEWEST = int(transformers.__version__.split(".")[0]) >= 5
GREEDY = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
TEXTS = ["hello", "world", "fox", "dog", "one"]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("transformers",)) as running:
        yield running


@pytest.fixture
def sorter(classifier: Any, tokenizer: Any) -> Any:
    return transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)


@pytest.fixture
def writer(llama: Any, tokenizer: Any) -> Any:
    return transformers.pipeline("text-generation", model=llama, tokenizer=tokenizer)


class Texts(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> Any:
        return TEXTS[index]


class Rows(Texts):
    def __getitem__(self, index: int) -> Any:
        return {"text": TEXTS[index]}


class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
    def __iter__(self) -> Any:
        return iter(TEXTS)


INPUTS = {
    "dataset": Texts,
    "key dataset": lambda: KeyDataset(Rows(), "text"),
    "iterable dataset": Stream,
    "generator": lambda: (text for text in TEXTS),
}


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", INPUTS)
def test_every_item_in_one_request(telemetry: Telemetry, sorter: Any, kind: str, batch_size: int) -> None:
    eager = sorter(TEXTS, batch_size=batch_size)
    telemetry.forget_spans()
    result = sorter(INPUTS[kind](), batch_size=batch_size)
    assert type(result) is PipelineIterator
    assert recorded(telemetry) == []
    items = list(result)
    assert items == eager
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=5)]
    assert telemetry.counts() == {("transformers", "tiny/bert", "text-classification"): 2}


def test_a_result_that_nobody_takes_is_no_request(telemetry: Telemetry, sorter: Any) -> None:
    result = sorter(Texts())
    iter(result)
    assert len(result) == len(TEXTS)
    del result
    gc.collect()
    assert recorded(telemetry) == []
    assert telemetry.counts() == {}


def test_generations_inside_are_stages_up_to_the_cap_and_tokens_are_whole(
    telemetry: Telemetry, writer: Any
) -> None:
    items = list(writer(("hello" for _ in range(40)), **GREEDY))
    assert len(items) == 40
    owner, *stages = recorded(telemetry)
    assert owner == expected(batch=40, input=40, output=120, reasons=("length",) * 40, ttft=True)
    assert {stage["parent"] for stage in stages} == {owner["name"]}
    assert len(stages) == 32


def test_a_loop_that_is_left_is_cancelled(telemetry: Telemetry, sorter: Any) -> None:
    result = sorter(Texts())
    for number, _item in enumerate(result):
        if number == 1:
            break
    assert recorded(telemetry) == []
    del result
    gc.collect()
    telemetry.metrics()
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=2, error="cancelled")]
    assert telemetry.counts() == {("transformers", "tiny/bert", "text-classification", "cancelled"): 1}


def test_each_iteration_over_a_dataset_is_a_request(telemetry: Telemetry, sorter: Any) -> None:
    result = sorter(Texts())
    assert len(list(result)) == 5
    assert len(list(result)) == 5
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=5)] * 2


def test_beginning_anew_cancels_what_ran(telemetry: Telemetry, sorter: Any) -> None:
    result = sorter(Texts())
    iterator = iter(result)
    next(iterator)
    assert len(list(result)) == 5
    assert recorded(telemetry) == [
        expected("text-classification", "tiny/bert", batch=1, error="cancelled"),
        expected("text-classification", "tiny/bert", batch=5),
    ]


def test_after_the_end_there_is_no_more(telemetry: Telemetry, sorter: Any) -> None:
    iterator = iter(sorter(Texts()))
    assert len(list(item for item in [next(iterator) for _ in TEXTS])) == 5
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=5)]


def test_next_without_iter_fails_as_without_us(telemetry: Telemetry, sorter: Any) -> None:
    with pytest.raises(AttributeError, match="iterator"):
        next(sorter(Texts()))
    assert recorded(telemetry) == []


def test_an_error_of_the_input(telemetry: Telemetry, sorter: Any) -> None:
    def texts() -> Any:
        yield "hello"
        yield "world"
        raise OSError("secret")

    result = sorter(texts())
    got = []
    with pytest.raises(OSError, match="secret") as raised:
        for item in result:
            got.append(item)
    assert raised.traceback[-1].name == "texts"
    assert len(got) == 2
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=2, error="OSError")]


def test_what_is_taken_after_an_error_reaches_the_user_in_silence(telemetry: Telemetry, writer: Any) -> None:
    class Gap(Texts):
        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise KeyError(index)
            return TEXTS[index]

    iterator = iter(writer(Gap(), **GREEDY))
    next(iterator)
    with pytest.raises(KeyError):
        next(iterator)
    assert len(list(next(iterator) for _ in range(3))) == 3
    owner, *stages = recorded(telemetry)
    assert owner["attributes"]["error.type"] == "KeyError"
    assert owner["attributes"]["aimon.batch.size"] == 1
    assert len(stages) == 1


def test_workers_of_a_loader(telemetry: Telemetry, sorter: Any) -> None:
    items = list(sorter(Texts(), num_workers=1, batch_size=2))
    assert items == sorter(TEXTS, batch_size=2)
    assert recorded(telemetry) == [expected("text-classification", "tiny/bert", batch=5)] * 2


def test_nothing_of_ours_is_current_in_the_users_loop(telemetry: Telemetry, sorter: Any) -> None:
    from opentelemetry.context import get_current
    from opentelemetry.trace import get_current_span

    before = get_current()
    for _item in sorter(Texts()):
        assert get_current() == before
        assert not get_current_span().get_span_context().is_valid
    assert get_current() == before


def test_what_the_user_calls_in_the_loop_is_a_request_of_its_own(telemetry: Telemetry, sorter: Any) -> None:
    for _item in sorter(text for text in TEXTS[:2]):
        sorter("hello")
    assert [(span["parent"], span["attributes"]["aimon.batch.size"]) for span in recorded(telemetry)] == [
        (None, 2),
        (None, 1),
        (None, 1),
    ]


def test_a_pipeline_over_a_pipeline_is_one_request(telemetry: Telemetry, sorter: Any, writer: Any) -> None:
    class Written(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Any:
            for found in writer((text for text in TEXTS[:2]), **GREEDY):
                yield found[0]["generated_text"]

    assert len(list(sorter(Written()))) == 2
    owner, *stages = recorded(telemetry)
    assert owner["name"] == "text-classification tiny/bert"
    assert owner["parent"] is None
    assert {stage["parent"] for stage in stages} == {owner["name"]}


@pytest.mark.skipif(not NEWEST, reason="version 4 fails on a conversation in a generator")
def test_a_conversation_in_a_generator_is_worked_off_at_once(telemetry: Telemetry, writer: Any) -> None:
    messages = ({"role": "user", "content": "hello"} for _ in range(1))
    assert type(writer(messages, **GREEDY)) is list
    owner, stage = recorded(telemetry)
    assert owner["name"] == "chat tiny/llama"
    assert owner["attributes"]["aimon.batch.size"] == 1
    assert stage["parent"] == owner["name"]


def test_a_dataset_of_conversations(telemetry: Telemetry, writer: Any) -> None:
    class Conversations(Texts):
        def __getitem__(self, index: int) -> Any:
            return {"chat": [{"role": "user", "content": TEXTS[index]}]}

    result = writer(KeyDataset(Conversations(), "chat"), **GREEDY)
    items = list(result)
    assert len(items) == 5
    owners = [span for span in recorded(telemetry) if span["parent"] is None]
    assert [owner["attributes"]["aimon.batch.size"] for owner in owners] == [5]
    assert owners[0]["name"] == "chat tiny/llama"


def test_chunked_pipelines(telemetry: Telemetry, tokenizer: Any) -> None:
    model = make_bert("ForSequenceClassification", num_labels=3)
    model.config.label2id = {"entailment": 0, "neutral": 1, "contradiction": 2}
    pipe = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    result = pipe((text for text in TEXTS), candidate_labels=["fox", "dog"])
    assert len(list(result)) == 5
    assert recorded(telemetry) == [expected("zero-shot-classification", "tiny/bert", batch=5)]
