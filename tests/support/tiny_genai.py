"""A model in the form that onnxruntime-genai reads, which counts upwards: after token 4 comes token 5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 16
EOS = VOCABULARY - 1
CONTEXT = 32

_KEYS, _VALUES = "past_key_values.0.key", "past_key_values.0.value"
_SEARCH = {
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": True,
    "length_penalty": 1.0,
    "max_length": CONTEXT,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "past_present_share_buffer": False,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_k": 1,
    "top_p": 1.0,
}


def save(folder: Path) -> Path:
    """Write the model and its configuration into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_network(), folder / "model.onnx")
    (folder / "genai_config.json").write_text(json.dumps(_configuration()), encoding="utf-8")
    return folder


def _network() -> onnx.ModelProto:
    def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    next_token = np.roll(np.eye(VOCABULARY, dtype=np.float32), 1, axis=1)
    past = ("batch", 1, "past", 2)
    total = ("batch", 1, "total", 2)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["next_token", "input_ids"], ["logits"]),
            helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
            helper.make_node("Unsqueeze", ["embedded", "axis"], ["new"]),
            helper.make_node("Concat", [_KEYS, "new"], ["present.0.key"], axis=2),
            helper.make_node("Concat", [_VALUES, "new"], ["present.0.value"], axis=2),
        ],
        "counting",
        [
            value("input_ids", TensorProto.INT64, "batch", "sequence"),
            value("attention_mask", TensorProto.INT64, "batch", "total"),
            value(_KEYS, TensorProto.FLOAT, *past),
            value(_VALUES, TensorProto.FLOAT, *past),
        ],
        [
            value("logits", TensorProto.FLOAT, "batch", "sequence", VOCABULARY),
            value("present.0.key", TensorProto.FLOAT, *total),
            value("present.0.value", TensorProto.FLOAT, *total),
        ],
        [
            numpy_helper.from_array(next_token, "next_token"),
            numpy_helper.from_array(np.zeros((VOCABULARY, 2), np.float32), "embedding"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _configuration() -> dict[str, object]:
    decoder = {
        "session_options": {"provider_options": [], "log_id": "tiny"},
        "filename": "model.onnx",
        "head_size": 2,
        "hidden_size": 2,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
    }
    model = {
        "type": "llama",
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "vocab_size": VOCABULARY,
        "context_length": CONTEXT,
        "decoder": decoder,
    }
    return {"model": model, "search": _SEARCH}
