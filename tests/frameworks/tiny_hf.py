"""Tiny random Hugging Face models and a tokenizer, made on the spot."""

from __future__ import annotations

from typing import Any

import pytest

VOCABULARY = 512
PAD, BOS, EOS = 0, 1, 2

_TEXT = "hello world the quick brown fox jumps over the lazy dog . one two three four five six seven ."


def make_tokenizer(**changes: Any) -> Any:
    """A byte-level tokenizer with a chat template; it pads on the left, as decoders want it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 20, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        **changes,
    )
    made.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    return made


def _named(model: Any, name: str) -> Any:
    model.config._name_or_path = name
    model.generation_config = getattr(model, "generation_config", None)
    return model.eval()


def make_llama(name: str = "tiny/llama", *, layers: int = 2, seed: int = 0) -> Any:
    """A decoder-only model."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return _named(transformers.LlamaForCausalLM(config), name)


def make_t5(name: str = "tiny/t5") -> Any:
    """An encoder-decoder model."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=PAD,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return _named(transformers.T5ForConditionalGeneration(config), name)


def make_bert(kind: str, name: str = "tiny/bert", **changes: Any) -> Any:
    """An encoder: ``kind`` is the class after ``Bert``, such as ``Model`` or ``ForMaskedLM``."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=PAD,
        **changes,
    )
    model = getattr(transformers, f"Bert{kind}")(config)
    model.config._name_or_path = name
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of all tiny models."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def llama() -> Any:
    """A decoder-only model."""
    return make_llama()


@pytest.fixture(scope="session")
def t5() -> Any:
    """An encoder-decoder model."""
    return make_t5()


@pytest.fixture(scope="session")
def classifier() -> Any:
    """An encoder with three labels."""
    return make_bert("ForSequenceClassification", num_labels=3)
