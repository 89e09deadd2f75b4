"""Tiny random models on disk, and SGLang over them on a CPU.

SGLang's engine plumbing on a CPU: not a supported configuration. ``sglang_cpu`` stands in for what SGLang imports
and cannot be had there; everything else is SGLang's own.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.frameworks.tiny_hf import make_tokenizer
from tests.support.tiny_vllm import _sizes

SHIM = str(Path(__file__).with_name("sglang_cpu"))


def _version() -> tuple[int, ...]:
    try:
        found = version("sglang")
    except PackageNotFoundError:
        return ()
    return tuple(int(part) for part in found.split(".")[:3])


ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
}

CONTEXT = 128
"""Tokens that fit into a model: prompt and output together."""

PLACES = 4
"""Requests that fit into a batch."""

TELLS_TIMES = _version() >= (0, 5, 18)
"""Its scheduler can send its times without Prometheus metrics."""

TELLS_LOADS = _version() >= (0, 5, 15)
"""Its scheduler shares its load with the front end through memory."""

ENGINE: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_cuda_graph": True,
    "disable_overlap_schedule": True,
    "mem_fraction_static": 0.1,
    "max_total_tokens": 1024,
    "max_running_requests": PLACES,
    "context_length": CONTEXT,
    "skip_server_warmup": True,
    "log_level": "error",
    **({"load_snapshot_publish_interval": 1} if TELLS_LOADS else {}),
}


def prepare() -> None:
    """Set what SGLang and its processes read from the environment."""
    os.environ.update(ENVIRONMENT)
    if SHIM not in sys.path:
        sys.path.insert(0, SHIM)
    os.environ["PYTHONPATH"] = with_shim(os.environ.get("PYTHONPATH"))


def with_shim(path: str | None) -> str:
    """A ``PYTHONPATH`` with the shim, and with ``path``."""
    parts = [] if not path else path.split(os.pathsep)
    return os.pathsep.join([SHIM, *(part for part in parts if part != SHIM)])


def arguments() -> list[str]:
    """:data:`ENGINE` as command-line arguments."""
    found = []
    for name, value in ENGINE.items():
        found.append("--" + name.replace("_", "-"))
        if value is not True:
            found.append(str(value))
    return found


def save_llama(folder: Path) -> str:
    """A decoder-only model. The folder's name is the model's."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(num_key_value_heads=2, **_sizes())
    transformers.LlamaForCausalLM(config).eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)
