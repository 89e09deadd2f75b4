"""`generate` in all its modes: one request, with the tokens that the model's ids say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

import otel_aimon
from tests.frameworks.hf_spans import expected, recorded
from tests.frameworks.tiny_hf import BOS, EOS, PAD, make_llama
from tests.support.telemetry import Telemetry

NAME = "text_completion tiny/llama"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("transformers",)) as running:
        yield running


@pytest.fixture
def one(tokenizer: Any) -> Any:
    return tokenizer("hello world fox", return_tensors="pt")


@pytest.fixture
def padded(tokenizer: Any) -> Any:
    """Two prompts, the second one padded on the left."""
    return tokenizer(["hello world fox", "fox"], return_tensors="pt", padding=True)


MODES: dict[str, tuple[dict[str, Any], int]] = {
    "greedy": ({"do_sample": False}, 1),
    "sample": ({"do_sample": True}, 1),
    "several sequences": ({"do_sample": True, "num_return_sequences": 3}, 3),
    "beams": ({"num_beams": 3, "do_sample": False}, 1),
    "several beams": ({"num_beams": 3, "num_return_sequences": 2, "do_sample": False}, 2),
    "beam sample": ({"num_beams": 2, "do_sample": True}, 1),
    "static cache": ({"do_sample": False, "cache_implementation": "static"}, 1),
    "no cache": ({"do_sample": False, "use_cache": False}, 1),
    "scores": ({"do_sample": False, "return_dict_in_generate": True, "output_scores": True}, 1),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_padded_batch_in_every_mode(telemetry: Telemetry, llama: Any, padded: Any, mode: str) -> None:
    options, per_prompt = MODES[mode]
    result = llama.generate(**padded, max_new_tokens=5, eos_token_id=None, **options)
    ids = getattr(result, "sequences", result)
    rows = 2 * per_prompt
    assert ids.shape == (rows, padded["input_ids"].shape[1] + 5)
    assert recorded(telemetry) == [
        expected(
            batch=2,
            input=int(padded["attention_mask"].sum()),
            output=5 * rows,
            reasons=("length",) * rows,
            ttft=True,
        )
    ]
    points = telemetry.metrics()
    for name in (
        "aimon.inference.duration",
        "aimon.inference.batch.size",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    ):
        assert [point.count for point in points[name]] == [1], name
    tokens = {
        point.attributes["gen_ai.token.type"]: point.value for point in points["aimon.inference.tokens"]
    }
    assert tokens == {"input": int(padded["attention_mask"].sum()), "output": 5 * rows}
    assert "aimon.inference.stage.duration" not in points


ASSISTED: dict[str, dict[str, Any]] = {
    "draft model": {"assistant_model": True},
    "sampling with a draft model": {"assistant_model": True, "do_sample": True},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "early exit of the same model": {"assistant_early_exit": 1},
}


@pytest.mark.parametrize("mode", ASSISTED)
def test_assisted_decoding_is_one_request(telemetry: Telemetry, llama: Any, one: Any, mode: str) -> None:
    options = dict(ASSISTED[mode])
    if "assistant_model" in options:
        options["assistant_model"] = make_llama("tiny/draft", layers=1)
    options.setdefault("do_sample", False)
    ids = llama.generate(**one, max_new_tokens=9, eos_token_id=None, **options)
    output = ids.shape[1] - one["input_ids"].shape[1]
    assert output == 9
    assert recorded(telemetry) == [
        expected(batch=1, input=one["input_ids"].numel(), output=9, reasons=("length",), ttft=True)
    ]


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("as_dict", [False, True])
def test_encoder_decoder_leaves_out_the_start_token(
    telemetry: Telemetry, t5: Any, padded: Any, beams: int, as_dict: bool
) -> None:
    result = t5.generate(
        **padded, max_new_tokens=4, eos_token_id=None, num_beams=beams, return_dict_in_generate=as_dict
    )
    ids = getattr(result, "sequences", result)
    assert ids.shape == (2, 1 + 4)
    assert recorded(telemetry) == [
        expected(
            model="tiny/t5",
            batch=2,
            input=int(padded["attention_mask"].sum()),
            output=8,
            reasons=("length", "length"),
            ttft=True,
        )
    ]


def test_encoder_decoder_counts_new_tokens_after_a_decoder_prompt(
    telemetry: Telemetry, t5: Any, one: Any
) -> None:
    start = torch.tensor([[PAD, 40, 41]])
    ids = t5.generate(**one, decoder_input_ids=start, max_new_tokens=4, eos_token_id=None)
    assert ids.shape == (1, 3 + 4)
    assert recorded(telemetry)[0]["attributes"]["gen_ai.usage.output_tokens"] == 4


@pytest.mark.parametrize(
    "passed",
    [
        lambda model, ids: model.generate(ids, max_new_tokens=3, do_sample=False),
        lambda model, ids: model.generate(inputs=ids, max_new_tokens=3, do_sample=False),
        lambda model, ids: model.generate(input_ids=ids, max_new_tokens=3, do_sample=False),
        lambda model, ids: model.generate(
            ids, transformers.GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=PAD)
        ),
    ],
    ids=["positional", "inputs", "input_ids", "generation_config"],
)
def test_the_prompt_is_found_however_it_is_passed(
    telemetry: Telemetry, llama: Any, one: Any, passed: Any
) -> None:
    passed(llama, one["input_ids"])
    attributes = recorded(telemetry)[0]["attributes"]
    assert attributes["gen_ai.usage.input_tokens"] == one["input_ids"].numel()
    assert attributes["gen_ai.usage.output_tokens"] == 3


def test_without_a_prompt_the_start_token_is_the_prompt(telemetry: Telemetry, llama: Any) -> None:
    ids = llama.generate(max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert ids.tolist()[0][0] == BOS
    assert recorded(telemetry) == [expected(batch=1, input=1, output=3, reasons=("length",), ttft=True)]


def test_embeddings_are_no_tokens(telemetry: Telemetry, llama: Any, one: Any) -> None:
    embeddings = llama.get_input_embeddings()(one["input_ids"])
    ids = llama.generate(inputs_embeds=embeddings, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert ids.shape == (1, 3)
    assert recorded(telemetry) == [expected(batch=1, output=3, reasons=("length",), ttft=True)]


def test_pads_that_nobody_masked_are_not_counted(telemetry: Telemetry, llama: Any, padded: Any) -> None:
    llama.generate(padded["input_ids"], max_new_tokens=2, do_sample=False, eos_token_id=None)
    attributes = recorded(telemetry)[0]["attributes"]
    assert attributes["gen_ai.usage.input_tokens"] == int((padded["input_ids"] != PAD).sum())


# --- sequences of different lengths ------------------------------------------------------------


class _EndAt(transformers.LogitsProcessor):
    """Makes row 0 end after one new token; the other rows never end."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        scores[:, EOS] = -torch.inf
        if ids.shape[1] == self.prompt + 1:
            scores[0] = -torch.inf
            scores[0, EOS] = 0.0
        return scores


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_padding_behind_a_sequence_that_ended_is_not_counted(
    telemetry: Telemetry, llama: Any, padded: Any, pad: int
) -> None:
    processors = transformers.LogitsProcessorList([_EndAt(padded["input_ids"].shape[1])])
    ids = llama.generate(
        **padded,
        max_new_tokens=6,
        do_sample=False,
        logits_processor=processors,
        eos_token_id=EOS,
        pad_token_id=pad,
    )
    new = ids[:, padded["input_ids"].shape[1] :]
    assert new[0, 1] == EOS
    assert new.shape == (2, 6)
    assert recorded(telemetry) == [
        expected(
            batch=2,
            input=int(padded["attention_mask"].sum()),
            output=2 + 6,
            reasons=("stop", "length"),
            ttft=True,
        )
    ]


def test_one_sequence_that_ends_early(telemetry: Telemetry, llama: Any, one: Any) -> None:
    processors = transformers.LogitsProcessorList([_EndAt(one["input_ids"].shape[1])])
    ids = llama.generate(
        **one, max_new_tokens=6, do_sample=False, logits_processor=processors, eos_token_id=EOS
    )
    assert ids.shape[1] - one["input_ids"].shape[1] == 2
    assert recorded(telemetry) == [
        expected(batch=1, input=one["input_ids"].numel(), output=2, reasons=("stop",), ttft=True)
    ]


class _StopFirstRow(transformers.StoppingCriteria):
    def __call__(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        done = torch.zeros(ids.shape[0], dtype=torch.bool)
        done[0] = True
        return done


def test_what_a_criterion_of_the_user_cut_short_is_not_guessed(
    telemetry: Telemetry, llama: Any, padded: Any
) -> None:
    criteria = transformers.StoppingCriteriaList([_StopFirstRow()])
    llama.generate(
        **padded,
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
        stopping_criteria=criteria,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    assert len(criteria) == 1
    assert recorded(telemetry) == [expected(batch=2, input=int(padded["attention_mask"].sum()), ttft=True)]


# --- time --------------------------------------------------------------------------------------


class _Clock:
    """A streamer that notes when each token comes, by the clock of spans."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def put(self, ids: Any) -> None:
        self.times.append(time.perf_counter_ns())

    def end(self) -> None:
        self.times.append(time.perf_counter_ns())


def test_times_agree_with_a_streamer_of_the_same_run(telemetry: Telemetry, llama: Any, one: Any) -> None:
    clock = _Clock()
    before = time.perf_counter_ns()
    llama.generate(**one, max_new_tokens=12, do_sample=False, eos_token_id=None, streamer=clock)
    after = time.perf_counter_ns()
    prompt, *tokens, _end = clock.times
    assert len(tokens) == 12
    points = telemetry.metrics()
    first = points["gen_ai.server.time_to_first_token"][0].total
    per_token = points["gen_ai.server.time_per_output_token"][0].total
    assert first is not None
    assert per_token is not None
    # Our clock is read right after the streamer's, once a token.
    assert (tokens[0] - prompt) / 1e9 < first < (tokens[1] - before) / 1e9
    assert (tokens[-1] - tokens[1]) / 1e9 < per_token * 11 < (after - tokens[0]) / 1e9


def test_one_token_has_no_time_per_token(telemetry: Telemetry, llama: Any, one: Any) -> None:
    llama.generate(**one, max_new_tokens=1, do_sample=False)
    points = telemetry.metrics()
    assert "gen_ai.server.time_per_output_token" not in points
    assert points["gen_ai.server.time_to_first_token"][0].count == 1


def test_a_streamer_in_a_thread_of_the_user(
    telemetry: Telemetry, llama: Any, one: Any, tokenizer: Any
) -> None:
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    options = dict(**one, max_new_tokens=5, do_sample=False, eos_token_id=None, streamer=streamer)
    thread = threading.Thread(target=llama.generate, kwargs=options)
    thread.start()
    assert "".join(streamer)
    thread.join()
    assert recorded(telemetry) == [
        expected(batch=1, input=one["input_ids"].numel(), output=5, reasons=("length",), ttft=True)
    ]


# --- nesting and errors ------------------------------------------------------------------------


def test_inside_a_request_by_hand_it_is_a_stage(telemetry: Telemetry, llama: Any, one: Any) -> None:
    with otel_aimon.inference("chat", model="mine", batch_size=1):
        for _ in range(2):
            llama.generate(**one, max_new_tokens=3, do_sample=False, eos_token_id=None)
    prompt = one["input_ids"].numel()
    owner, *stages = recorded(telemetry)
    assert (
        stages
        == [expected(parent="chat mine", batch=1, input=prompt, output=3, reasons=("length",), ttft=True)] * 2
    )
    assert owner["attributes"]["gen_ai.usage.input_tokens"] == 2 * prompt
    assert owner["attributes"]["gen_ai.usage.output_tokens"] == 6
    assert owner["attributes"]["gen_ai.response.finish_reasons"] == ("length", "length")
    assert telemetry.counts() == {("manual", "mine", "chat"): 1}


def test_tokens_are_whole_past_the_cap_of_stages(telemetry: Telemetry, llama: Any, one: Any) -> None:
    with otel_aimon.inference("chat", model="mine"):
        for _ in range(40):
            llama.generate(**one, max_new_tokens=2, do_sample=False, eos_token_id=None)
    owner, *stages = recorded(telemetry)
    assert len(stages) == 32
    assert owner["attributes"]["gen_ai.usage.output_tokens"] == 80
    assert telemetry.counts("aimon.inference.stage.duration") == {
        ("transformers", "tiny/llama", "text_completion"): 32
    }


def test_a_sum_with_an_unknown_part_is_unknown(telemetry: Telemetry, llama: Any, one: Any) -> None:
    embeddings = llama.get_input_embeddings()(one["input_ids"])
    with otel_aimon.inference("chat", model="mine"):
        llama.generate(**one, max_new_tokens=2, do_sample=False, eos_token_id=None)
        llama.generate(inputs_embeds=embeddings, max_new_tokens=2, do_sample=False, eos_token_id=None)
        llama.generate(**one, max_new_tokens=2, do_sample=False, eos_token_id=None)
    owner = recorded(telemetry)[0]["attributes"]
    assert "gen_ai.usage.input_tokens" not in owner
    assert owner["gen_ai.usage.output_tokens"] == 6


class _Broken(transformers.LogitsProcessor):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, ids: Any, scores: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "recorded_as"),
    [
        (ValueError("secret prompt"), "ValueError"),
        (torch.OutOfMemoryError("secret prompt"), "torch.OutOfMemoryError"),
        (KeyboardInterrupt(), "cancelled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_pass_through_and_are_recorded(
    telemetry: Telemetry, llama: Any, one: Any, error: BaseException, recorded_as: str
) -> None:
    processors = transformers.LogitsProcessorList([_Broken(error)])
    with pytest.raises(type(error)) as raised:
        llama.generate(**one, max_new_tokens=3, logits_processor=processors)
    assert raised.value is error
    assert raised.traceback[-1].name == "__call__"
    assert recorded(telemetry) == [expected(batch=1, input=one["input_ids"].numel(), error=recorded_as)]
    assert "secret" not in str(telemetry.raw_spans()[0].to_json())


def test_rejected_arguments_are_a_failed_request(telemetry: Telemetry, llama: Any, one: Any) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        llama.generate(**one, nonsense=1)
    assert recorded(telemetry) == [expected(error="ValueError")]


def test_a_decoding_loop_of_the_user_has_no_output_count(telemetry: Telemetry, llama: Any, one: Any) -> None:
    def decode(model: Any, input_ids: Any, **kwargs: Any) -> Any:
        return torch.cat([input_ids, input_ids], dim=1)

    ids = llama.generate(**one, max_new_tokens=3, custom_generate=decode)
    assert ids.shape[1] == 2 * one["input_ids"].shape[1]
    assert recorded(telemetry) == [expected(batch=1, input=one["input_ids"].numel())]


def test_a_model_without_a_name_is_called_after_its_class(telemetry: Telemetry, one: Any) -> None:
    make_llama("").generate(**one, max_new_tokens=1, do_sample=False)
    assert recorded(telemetry)[0]["name"] == "text_completion LlamaForCausalLM"


def test_generate_while_training_counts(telemetry: Telemetry, one: Any) -> None:
    model = make_llama("tiny/trained")
    model.train()
    model(**one, labels=one["input_ids"]).loss.backward()
    model.generate(**one, max_new_tokens=2, do_sample=False, eos_token_id=None)
    assert [span["name"] for span in recorded(telemetry)] == ["text_completion tiny/trained"]


def test_whisper_is_one_request_over_all_its_windows(telemetry: Telemetry) -> None:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=100,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=20,
        max_target_positions=32,
        num_mel_bins=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=2,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.config._name_or_path = "tiny/whisper"
    model.generation_config.no_timestamps_token_id = 50
    model.generation_config.return_timestamps = True
    model.generation_config.is_multilingual = False
    sound = torch.randn(1, 8, 100)
    model.generate(sound, attention_mask=torch.ones(1, 100, dtype=torch.long), max_new_tokens=4)
    owner, *windows = recorded(telemetry)
    assert owner["parent"] is None
    assert owner["name"] == "text_completion tiny/whisper"
    assert {window["parent"] for window in windows} == {owner["name"]}
    assert len(windows) > 1
    assert owner["attributes"]["gen_ai.usage.output_tokens"] == sum(
        window["attributes"]["gen_ai.usage.output_tokens"] for window in windows
    )
    assert telemetry.counts() == {("transformers", "tiny/whisper", "text_completion"): 1}
