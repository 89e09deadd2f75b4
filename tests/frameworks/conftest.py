"""Tiny models for all frameworks that run them; nothing is imported before a test asks for one."""

from tests.frameworks.tiny_hf import classifier, llama, t5, tokenizer

__all__ = ["classifier", "llama", "t5", "tokenizer"]
