"""LMDeploy over an engine that runs no model: its own engines need a GPU.

Everything in front of the engine is LMDeploy's own: its pipeline, its sessions, its tokenizer and its server.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.frameworks.tiny_hf import BOS, EOS, VOCABULARY, make_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float32",
}
CONTEXT = CONFIG["max_position_embeddings"]
TOKEN = 40


def save(folder: Path) -> Path:
    """A folder with what there is of a model but its weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    make_tokenizer().save_pretrained(str(folder))
    return folder


class Engine:
    """Gives each prompt the same token, as many as it may have, one in a millisecond.

    Attributes:
        first: Tokens in the first output.
        ends_after: Tokens after which the text ends by itself.
        status: How each text ends that is not ended otherwise, after its first token.
        cached: Prompt tokens that each prompt has in a cache.
    """

    def __init__(self, config: Any) -> None:
        self.engine_config = config
        self.first = 1
        self.ends_after = CONTEXT
        self.status: Any = None
        self.cached = 0

    def create_instance(self, *_args: Any, **_options: Any) -> Instance:
        return Instance(self)

    def start_loop(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to close."""


class Instance:
    """What one prompt at a time is given to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cancelled = False

    async def async_stream_infer(
        self, _session_id: int, *_args: Any, gen_config: Any, stream_output: bool = True, **_options: Any
    ) -> Any:
        from lmdeploy.messages import EngineOutput, RequestMetrics, ResponseType

        engine = self._engine
        self._cancelled = False
        metrics = RequestMetrics()
        if engine.cached:
            metrics.cached_tokens = engine.cached
        given: list[int] = []
        while True:
            await asyncio.sleep(0.001)
            if self._cancelled:
                yield EngineOutput(ResponseType.CANCEL, [], req_metrics=metrics)
                return
            if engine.status is not None and given:
                yield EngineOutput(engine.status, [], req_metrics=metrics)
                return
            new = [TOKEN] * (1 if given else engine.first)
            if len(given) >= engine.ends_after:
                new = [EOS]
            given += new
            ended = new == [EOS] or len(given) >= gen_config.max_new_tokens
            status = ResponseType.FINISH if ended else ResponseType.SUCCESS
            if stream_output or ended:
                yield EngineOutput(status, new if stream_output else given, req_metrics=metrics)
            if ended:
                return

    async def async_cancel(self, _session_id: int) -> None:
        self._cancelled = True

    async def async_end(self, _session_id: int) -> None:
        """Nothing to end."""


def prepare() -> None:
    """Let LMDeploy build the stand-in wherever it would build its PyTorch engine."""
    from lmdeploy.serve.core.async_engine import AsyncEngine

    def build(_self: Any, model_path: str, backend_config: Any = None, **_options: Any) -> Engine:
        return Engine(backend_config)

    AsyncEngine._build_pytorch = build


def make_pipeline(folder: Path) -> Any:
    """A pipeline over the stand-in."""
    import lmdeploy

    prepare()
    return lmdeploy.pipeline(str(folder), backend_config=lmdeploy.PytorchEngineConfig(max_batch_size=4))
