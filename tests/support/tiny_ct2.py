"""Tiny random models on disk as CTranslate2 wants them, converted on the spot. A folder's name is the model's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from tests.frameworks.tiny_hf import BOS, EOS, PAD, VOCABULARY, make_bert, make_llama, make_t5, make_tokenizer

PROMPT = ["<s>", "ow", "qu"]
"""Tokens that the tokenizer knows; the first is the models' own beginning of a sequence."""

SOURCE = ["ow", "qu", "</s>"]


def save_llama(folder: Path) -> str:
    """A decoder-only model, for ``Generator``."""
    return _converted(make_llama(), folder)


def save_t5(folder: Path) -> str:
    """An encoder-decoder model, for ``Translator``."""
    return _converted(make_t5(), folder)


def save_bert(folder: Path) -> str:
    """An encoder, for ``Encoder``."""
    return _converted(make_bert("Model", position_embedding_type="absolute"), folder)


def save_whisper(folder: Path) -> str:
    """A model of speech in English, for ``Whisper``, which writes text whatever it hears."""
    import torch
    import transformers

    torch.manual_seed(3)  # most others write nothing but white space
    tokenizer, ids = _whisper_tokenizer()
    end = ids["<|endoftext|>"]
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = transformers.WhisperForConditionalGeneration(config)
    generation = model.generation_config
    generation.no_timestamps_token_id = ids["<|notimestamps|>"]
    generation.lang_to_id = {"<|en|>": ids["<|en|>"]}
    generation.suppress_tokens, generation.begin_suppress_tokens = [], []
    source = _saved(model, tokenizer, folder)
    tokenizer.backend_tokenizer.save(str(source / "tokenizer.json"))
    transformers.WhisperFeatureExtractor().save_pretrained(source)
    return _convert(source, folder, ["tokenizer.json", "preprocessor_config.json"])


def _whisper_tokenizer() -> tuple[Any, dict[str, int]]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import WhisperTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = ["endoftext", "startoftranscript", *_LANGUAGES, "translate", "transcribe", "startoflm"]
    special = [f"<|{word}|>" for word in (*words, "startofprev", "nospeech", "notimestamps")]
    times = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken(time, special=False) for time in times])
    end = special[0]
    tokenizer = WhisperTokenizerFast(
        tokenizer_object=backend, unk_token=end, bos_token=end, eos_token=end, pad_token=end
    )
    return tokenizer, {word: backend.token_to_id(word) for word in special}


_LANGUAGES = ("en", *(f"x{index:02}" for index in range(98)))
"""As many as Whisper has, so that its other tokens have the ids that are expected of them."""


def _converted(model: Any, folder: Path) -> str:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<x{index}>" for index in range(VOCABULARY - len(tokenizer))])
    model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id = BOS, EOS, PAD
    return _convert(_saved(model, tokenizer, folder), folder)


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    source = folder.with_name(f"{folder.name}-source")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
    return source


def _convert(source: Path, folder: Path, files: list[str] | None = None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(source), copy_files=files).convert(str(folder), force=True)
    return str(folder)
