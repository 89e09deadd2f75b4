"""Tiny Transformers models, exported for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
)

from tests.frameworks.tiny_hf import make_bert, make_llama, make_t5, make_tokenizer

_MODELS: dict[str, tuple[Any, str, Any]] = {
    "llama": (ORTModelForCausalLM, "text-generation-with-past", make_llama),
    "t5": (ORTModelForSeq2SeqLM, "text2text-generation-with-past", make_t5),
    "encoder": (ORTModelForFeatureExtraction, "feature-extraction", lambda: make_bert("Model")),
    "classifier": (
        ORTModelForSequenceClassification,
        "text-classification",
        lambda: make_bert("ForSequenceClassification", num_labels=3),
    ),
}


def save(folder: Path, name: str) -> str:
    """Save a model of PyTorch and its tokenizer; returns where."""
    _MODELS[name][2]().save_pretrained(folder / name)
    make_tokenizer().save_pretrained(folder / name)
    return str(folder / name)


def exported(folder: Path, name: str) -> Any:
    """A model that was exported into a folder called as it is, and loaded from there."""
    cls, task, _ = _MODELS[name]
    output = folder / "onnx" / name
    main_export(save(folder, name), output=output, task=task)
    return cls.from_pretrained(output)
