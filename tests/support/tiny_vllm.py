"""Tiny random models on disk, as vLLM wants them, and engines over them that run on any CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.frameworks.tiny_hf import BOS, EOS, PAD, VOCABULARY, make_tokenizer

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else as many threads as there are cores wait for each other
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
}

CONTEXT = 128
"""Tokens that fit into a model: prompt and output together."""

ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": CONTEXT,
    "block_size": 32,  # so that a prompt has several, and some of them are cached
    "seed": 0,
}


def prepare() -> None:
    """Set what vLLM reads from the environment."""
    os.environ.update(ENVIRONMENT)


def _sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def save_llama(folder: Path) -> str:
    """A decoder-only model. The folder's name is the model's."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(num_key_value_heads=2, **_sizes())
    transformers.LlamaForCausalLM(config).eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def save_bert(folder: Path, *, classifies: bool) -> str:
    """An encoder, which either classifies and scores, or embeds."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(num_labels=1, **_sizes())
    made = transformers.BertForSequenceClassification if classifies else transformers.BertModel
    made(config).eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)
