"""SGLang takes one kernel for CPUs from vLLM, where it has none of its own."""
