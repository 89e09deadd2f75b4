"""Nothing that the user gets is different with us: results, errors, signatures, pickles, warnings."""

from __future__ import annotations

import gc
import inspect
import logging
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
import transformers.generation.utils as generation
import transformers.models.whisper.generation_whisper as whisper
import transformers.pipelines.base as base
import transformers.pipelines.pt_utils as pt_utils
from transformers.generation.continuous_batching import continuous_api

from tests.frameworks.tiny_hf import make_bert, make_llama
from tests.support.telemetry import Telemetry

PROMPT = [[40, 41, 42, 43]]
BATCH = [[40, 41, 42, 43], [50, 51, 52, 53]]


def telemetry() -> Telemetry:
    return Telemetry(frameworks=("transformers",))


def hooked() -> dict[tuple[Any, str], Any]:
    """Every function of the framework that may be replaced."""
    owners = (
        base.Pipeline,
        base.ChunkPipeline,
        pt_utils.PipelineIterator,
        generation.GenerationMixin,
        whisper.WhisperGenerationMixin,
        continuous_api.ContinuousBatchingManager,
        continuous_api.ContinuousBatchProcessor,
        continuous_api.RequestState,
        *filter(None, [getattr(continuous_api, "OutputRouter", None)]),
    )
    return {
        (owner, name): value for owner in owners for name, value in vars(owner).items() if callable(value)
    }


def replaced() -> list[tuple[Any, str]]:
    before = hooked()
    with telemetry():
        during = hooked()
    assert hooked() == before
    assert all(hooked()[key] is value for key, value in before.items())
    return [key for key, value in before.items() if during[key] is not value]


def test_every_original_is_put_back_and_nothing_was_left_out(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "otel_aimon"):
        names = {(owner.__name__, name) for owner, name in replaced()}
    assert not caplog.records
    assert names >= {
        ("Pipeline", "__call__"),
        ("Pipeline", "get_iterator"),
        ("Pipeline", "run_single"),
        ("ChunkPipeline", "get_iterator"),
        ("ChunkPipeline", "run_single"),
        ("PipelineIterator", "__iter__"),
        ("PipelineIterator", "__next__"),
        ("GenerationMixin", "generate"),
        ("GenerationMixin", "_prepare_generated_length"),
        ("GenerationMixin", "_has_unfinished_sequences"),
        ("WhisperGenerationMixin", "generate"),
        ("ContinuousBatchingManager", "add_request"),
        ("ContinuousBatchingManager", "cancel_request"),
        ("ContinuousBatchingManager", "_run_generation_loop"),
        ("ContinuousBatchingManager", "_handle_critical_error"),
        ("ContinuousBatchingManager", "warmup"),
        ("ContinuousBatchProcessor", "_handle_request_error"),
        ("RequestState", "__init__"),
        ("RequestState", "to_generation_output"),
    }


def test_signatures_names_and_docs_are_the_same() -> None:
    def described() -> list[Any]:
        return [
            (function.__name__, function.__qualname__, function.__doc__, inspect.signature(function))
            for owner, name in keys
            for function in [vars(owner)[name]]
        ]

    keys = replaced()
    before = described()
    with telemetry():
        assert described() == before


# --- what comes of a call ----------------------------------------------------------------------


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def plain(value: Any) -> Any:
    """``value`` as something to compare, with its types."""
    if isinstance(value, torch.Tensor):
        return "tensor", value.dtype, value.tolist()
    if isinstance(value, dict):
        return type(value), {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [plain(item) for item in value]
    if isinstance(value, transformers.Cache):
        return type(value), value.get_seq_length()
    return type(value), value


def outcome(call: Callable[[], Any]) -> dict[str, Any]:
    """All that a user can see of a call."""
    torch.manual_seed(7)
    messages = _Messages()
    logger = logging.getLogger("transformers")
    logger.addHandler(messages)
    transformers.utils.logging.warning_once.cache_clear()
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found["result"] = plain(call())
        except BaseException as error:
            innermost = inspect.getinnerframes(error.__traceback__)[-1]  # type: ignore[arg-type]
            found["error"] = (type(error), str(error), innermost.function, innermost.lineno)
            found["causes"] = (type(error.__cause__), type(error.__context__))
        finally:
            logger.removeHandler(messages)
    found["warnings"] = [(warning.category, str(warning.message)) for warning in warned]
    found["messages"] = messages.texts
    found["random"] = torch.random.get_rng_state().tolist()
    return found


class _Explode(transformers.LogitsProcessor):
    def __call__(self, ids: Any, scores: Any) -> Any:
        raise LookupError("on purpose")


class _Interrupt(transformers.StoppingCriteria):
    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt


def _streamed(model: Any) -> list[Any]:
    class Keep:
        got: list[Any] = []

        def put(self, ids: Any) -> None:
            self.got.append(ids.tolist())

        def end(self) -> None:
            self.got.append("end")

    keep = Keep()
    keep.got = []
    model.generate(torch.tensor(PROMPT), max_new_tokens=4, do_sample=True, streamer=keep)
    return keep.got


def _criteria(model: Any) -> Any:
    mine = transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(max_length=6)])
    ids = model.generate(torch.tensor(PROMPT), max_new_tokens=9, stopping_criteria=mine)
    return ids, len(mine)


def _kept_config(model: Any) -> Any:
    config = transformers.GenerationConfig(max_new_tokens=3, do_sample=False)
    before = config.to_dict()
    ids = model.generate(torch.tensor(PROMPT), generation_config=config)
    return ids, config.to_dict() == before


GENERATE: dict[str, Callable[[Any], Any]] = {
    "greedy": lambda m: m.generate(torch.tensor(PROMPT), max_new_tokens=5, do_sample=False),
    "sample": lambda m: m.generate(torch.tensor(BATCH), max_new_tokens=5, do_sample=True, temperature=1.5),
    "beams": lambda m: m.generate(
        torch.tensor(BATCH), max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False
    ),
    "dict": lambda m: m.generate(
        torch.tensor(PROMPT), max_new_tokens=3, return_dict_in_generate=True, output_scores=True
    ),
    "assisted": lambda m: m.generate(
        torch.tensor(PROMPT), max_new_tokens=8, do_sample=True, assistant_model=make_llama(layers=1)
    ),
    "lookup": lambda m: m.generate(torch.tensor(PROMPT), max_new_tokens=8, prompt_lookup_num_tokens=2),
    "static": lambda m: m.generate(torch.tensor(PROMPT), max_new_tokens=3, cache_implementation="static"),
    "streamed": _streamed,
    "criteria": _criteria,
    "config": _kept_config,
    "default length": lambda m: m.generate(torch.tensor(PROMPT)),
    "both lengths": lambda m: m.generate(torch.tensor(PROMPT), max_new_tokens=2, max_length=9),
    "no arguments": lambda m: m.generate(),
    "callable": lambda m: m.generate(
        torch.tensor(PROMPT), custom_generate=lambda model, input_ids, **kwargs: "anything"
    ),
    "unknown argument": lambda m: m.generate(torch.tensor(PROMPT), nonsense=1),
    "too many": lambda m: m.generate(*range(40)),
    "both inputs": lambda m: m.generate(torch.tensor(PROMPT), input_ids=torch.tensor(PROMPT)),
    "not a tensor": lambda m: m.generate("hello", max_new_tokens=2),
    "explodes": lambda m: m.generate(
        torch.tensor(PROMPT), logits_processor=transformers.LogitsProcessorList([_Explode()])
    ),
    "interrupted": lambda m: m.generate(
        torch.tensor(PROMPT), stopping_criteria=transformers.StoppingCriteriaList([_Interrupt()])
    ),
    "batch in a text streamer": lambda m: m.generate(
        torch.tensor(BATCH), max_new_tokens=2, streamer=transformers.TextStreamer(None)
    ),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate(llama: Any, case: str) -> None:
    without = outcome(lambda: GENERATE[case](llama))
    with telemetry():
        assert outcome(lambda: GENERATE[case](llama)) == without


PIPELINES: dict[str, Callable[[Any, Any], Any]] = {
    "text": lambda sort, write: sort("hello"),
    "list": lambda sort, write: sort(["hello", "world"], batch_size=2),
    "options": lambda sort, write: sort("hello", top_k=None),
    "ignored argument": lambda sort, write: write.__class__.__mro__[1].__call__(sort, "hello", "more"),
    "generation": lambda sort, write: write(["hello", "world"], max_new_tokens=3, do_sample=True),
    "conversation": lambda sort, write: write([{"role": "user", "content": "hello"}], max_new_tokens=3),
    "lazy": lambda sort, write: list(sort(text for text in ["hello", "world", "fox"])),
    "lazy text": lambda sort, write: list(
        write((text for text in ["hello", "fox"]), max_new_tokens=3, do_sample=True)
    ),
    "empty": lambda sort, write: sort([]),
    "empty generator": lambda sort, write: list(sort(text for text in ())),
    "nothing": lambda sort, write: sort(),
    "None": lambda sort, write: sort(None),
    "number": lambda sort, write: sort(7),
    "tuple": lambda sort, write: sort(("hello", "world")),
    "unknown option": lambda sort, write: write("hello", nonsense=3),
    "failing generator": lambda sort, write: list(sort(1 / text for text in [1, 0])),  # type: ignore[operator]
    "next without iter": lambda sort, write: next(sort(text for text in ["hello"])),
}


@pytest.mark.parametrize("case", PIPELINES)
def test_pipelines(llama: Any, classifier: Any, tokenizer: Any, case: str) -> None:
    sort = transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)
    write = transformers.pipeline("text-generation", model=llama, tokenizer=tokenizer)
    without = outcome(lambda: PIPELINES[case](sort, write))
    with telemetry():
        assert outcome(lambda: PIPELINES[case](sort, write)) == without


# --- objects -----------------------------------------------------------------------------------


def test_a_lazy_result_is_the_same_object_with_the_same_contents(classifier: Any, tokenizer: Any) -> None:
    sort = transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)

    def described(stage: str) -> Any:
        result = sort(text for text in ["hello", "world"])
        if stage != "new":
            assert iter(result) is result
        if stage == "running":
            next(result)
        return type(result), list(vars(result)), bool(hasattr(result, "__len__"))

    stages = ("new", "iterated", "running")
    without = [described(stage) for stage in stages]
    with telemetry():
        assert [described(stage) for stage in stages] == without


def test_pickles_are_the_same_with_us_and_load_without(classifier: Any, tokenizer: Any, llama: Any) -> None:
    sort = transformers.pipeline("text-classification", model=classifier, tokenizer=tokenizer)

    def pickled() -> list[bytes]:
        return [pickle.dumps(sort), pickle.dumps(sort.__call__), pickle.dumps(llama.generate)]

    without = pickled()
    with telemetry():
        during = pickled()
        assert [len(each) for each in during] == [len(each) for each in without]
        inside = [pickle.loads(each) for each in without]
        assert inside[1]("hello") == sort("hello")
    pipe, call, generate = (pickle.loads(each) for each in during)
    assert pipe("hello") == call("hello") == sort("hello")
    ids = torch.tensor(PROMPT)
    options = {"max_new_tokens": 2, "do_sample": False}
    assert generate(ids, **options).tolist() == llama.generate(ids, **options).tolist()


def test_nothing_of_the_user_is_kept_alive(tokenizer: Any) -> None:
    import weakref

    with telemetry() as running:
        model = make_bert("ForSequenceClassification", num_labels=2)
        pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
        result = pipe(text for text in ["hello"])
        list(result)
        writer = make_llama("tiny/gone")
        ids = torch.tensor(PROMPT)
        mask = torch.ones_like(ids)
        output = writer.generate(ids, attention_mask=mask, max_new_tokens=2)
        gone = [weakref.ref(each) for each in (model, pipe, result, writer, ids, mask, output)]
        del model, pipe, result, writer, ids, mask, output
        gc.collect()
        assert [each() for each in gone] == [None] * len(gone)
        assert len(running.spans()) == 2


def test_wrappers_that_the_user_kept_pass_through_after_uninstrument(llama: Any) -> None:
    with telemetry() as running:
        kept = llama.generate
    ids = kept(torch.tensor(PROMPT), max_new_tokens=2, do_sample=False)
    assert ids.shape == (1, 6)
    assert running.exporter.get_finished_spans() == ()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_forward_inside_generate(llama: Any) -> None:
    ids = torch.tensor(PROMPT)
    with telemetry() as running:
        expected = llama.generate(ids, max_new_tokens=2, do_sample=False).tolist()
        compiled = torch.compile(llama.forward, backend="eager")
        original, llama.forward = llama.forward, compiled
        try:
            assert llama.generate(ids, max_new_tokens=2, do_sample=False).tolist() == expected
        finally:
            llama.forward = original
            del llama.forward
        assert len(running.spans()) == 2
