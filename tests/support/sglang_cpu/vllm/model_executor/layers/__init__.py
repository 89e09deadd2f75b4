"""What old versions of SGLang take from vLLM on a CPU."""
