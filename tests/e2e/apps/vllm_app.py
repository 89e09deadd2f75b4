"""An offline program on vLLM: some requests, and an end that its first argument chooses.

Its further arguments are the folders of a decoder-only model and of one that embeds.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "block_size": 32, "seed": 0}
FOX = "hello world the quick brown fox"


def generative(folder: str) -> Any:
    from vllm import LLM

    return LLM(folder, max_num_seqs=4, **OPTIONS)


def sampling(tokens: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def all_of_it(decoder: str, encoder: str) -> None:
    """Every kind of call, and a prompt that does not fit."""
    from vllm import LLM

    llm = generative(decoder)
    llm.generate([FOX, "fox"], sampling(4), use_tqdm=False)
    llm.chat([{"role": "user", "content": "hello"}], sampling(2), use_tqdm=False)
    with contextlib.suppress(Exception):
        llm.generate({"prompt_token_ids": [7] * 129}, sampling(1), use_tqdm=False)
        sys.exit("the prompt was not too long")
    del llm
    embedding = LLM(encoder, runner="pooling", max_num_seqs=4, **OPTIONS)
    embedding.embed([FOX, "fox"], use_tqdm=False)


def in_flight(folder: str) -> Any:
    """An engine with three requests that have come half their way."""
    engine = generative(folder).llm_engine
    for number in range(3):
        engine.add_request(str(number), FOX, sampling(100))
    for _ in range(4):
        engine.step()
    return engine


def main() -> None:
    how, decoder, encoder = sys.argv[1:]
    # An export before vLLM is imported must not change the order in which the process ends.
    time.sleep(3)
    if how == "whole":
        all_of_it(decoder, encoder)
        return
    engine = in_flight(decoder)
    print("in flight", len(engine.output_processor.request_states), flush=True)
    if how == "raise":
        raise OSError("the program fails")
    if how == "exit":
        sys.exit(3)


if __name__ == "__main__":
    main()
