"""A tiny random Llama for MLX LM, made on the spot, with a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from tests.frameworks.tiny_hf import BOS, EOS, VOCABULARY, make_tokenizer

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


def save(folder: Path) -> Path:
    """A folder with the files of a model, as ``mlx_lm.load`` wants it."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    mx.random.seed(0)
    folder.mkdir(parents=True)
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    make_tokenizer().save_pretrained(str(folder))
    return folder
