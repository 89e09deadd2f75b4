"""Transformers: pipelines, ``generate``, continuous batching.

Three layers stand on each other. A pipeline takes text, images or sound and owns the request; the
``generate`` inside it is a stage, which knows the tokens and their times; the model calls inside
``generate`` are silent. Continuous batching goes its own way: its requests run on a thread of the
framework, many in one model call.
"""

from __future__ import annotations

from otel_aimon.instrumentation.transformers_batching import hook_continuous_batching
from otel_aimon.instrumentation.transformers_generate import hook_generate, hook_whisper
from otel_aimon.instrumentation.transformers_lazy import hook_lazy_results
from otel_aimon.instrumentation.transformers_pipelines import hook_pipelines

__all__ = [
    "hook_continuous_batching",
    "hook_generate",
    "hook_lazy_results",
    "hook_pipelines",
    "hook_whisper",
]
