"""ExLlamaV2's own dynamic generators over a model that computes nothing: its kernels are for GPUs only.

Pages, queues, sampling, stop conditions and results are ExLlamaV2's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SHIM = str(Path(__file__).with_name("exllamav2_cpu"))
NAME = "tiny-exl2"
VOCABULARY = 64
CONTEXT = 512
TOKEN, EOS = 40, 2


def prepare() -> Any:
    """The module of the dynamic generators, which find a stand-in for their extension."""
    if SHIM not in sys.path:
        sys.path.insert(0, SHIM)
    from exllamav2.generator import dynamic

    # Its attention over pages is another package's, for GPUs; no attention is computed here.
    dynamic.assert_paged_attn = lambda: None
    return dynamic


class Model:
    """Gives each sequence the same token, one in a millisecond.

    Attributes:
        ends_after: Steps after which it gives the end of the text instead.
        fails_after: Steps after which it fails.
    """

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            vocab_size=VOCABULARY,
            max_input_len=CONTEXT,
            max_batch_size=4,
            max_seq_len=CONTEXT,
            no_flash_attn=False,
            model_dir=f"/models/{NAME}",
            arch=SimpleNamespace(lm=SimpleNamespace(mrope=False)),
        )
        self.ends_after = CONTEXT
        self.fails_after = CONTEXT
        self._steps = 0

    def forward_chunk(self, *, input_ids: Any, preprocess_only: bool = False, **_options: Any) -> Any:
        import torch

        time.sleep(0.001)
        if preprocess_only:
            return None
        if self._steps >= self.fails_after:
            raise MemoryError
        chosen = EOS if self._steps >= self.ends_after else TOKEN
        self._steps += 1
        logits = torch.zeros(input_ids.shape[0], 1, VOCABULARY)
        logits[..., chosen] = 1.0
        return {"logits": logits}


class Cache:
    """A cache that holds nothing."""

    batch_size = 1
    max_seq_len = CONTEXT

    def all_tensors(self) -> list[Any]:
        return []

    def copy_states(self, *_arguments: Any) -> None:
        """Nothing to copy."""


class Tokenizer:
    """An id per character."""

    eos_token_id = EOS
    config = SimpleNamespace(vocab_size=VOCABULARY)

    def encode(self, text: str, **_options: Any) -> Any:
        import torch

        return torch.tensor([[ord(each) % VOCABULARY for each in text]], dtype=torch.long)

    def get_id_to_piece_list(self, *_arguments: Any) -> list[str]:
        return [chr(64 + each) for each in range(VOCABULARY)]

    def get_vocab_size(self) -> int:
        return VOCABULARY


def options() -> dict[str, Any]:
    """What a generator is made of."""
    return {
        "model": Model(),
        "cache": Cache(),
        "tokenizer": Tokenizer(),
        "max_batch_size": 2,
        "max_q_size": 1,
    }
