"""Ollama's client: each call is one request to a model on an Ollama server."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.instrumentation import client
from otel_aimon.instrumentation.client_answers import count, note_finish, note_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "ollama"

_OPERATIONS = {
    "chat": semconv.CHAT,
    "generate": semconv.TEXT_COMPLETION,
    "embed": semconv.EMBEDDINGS,
    "embeddings": semconv.EMBEDDINGS,
}


def hook_clients(hooks: Hooks, module: Any) -> None:
    """Hook the clients, before the package makes functions of the methods of one.

    Args:
        hooks: Of the client.
        module: ``ollama._client``.
    """
    streams = client.Streams(_read)
    for method, operation in _OPERATIONS.items():
        begin = functools.partial(_start, hooks, operation)
        for owner, asynchronous in ((module.Client, False), (module.AsyncClient, True)):
            if method in vars(owner):
                client.hook_call(
                    hooks, owner, method, begin, asynchronous=asynchronous, streams=streams, read=_read
                )


def _start(hooks: Hooks, operation: str, caller: Any, given: Mapping[str, Any]) -> Inference | None:
    server = client.server_at(caller._client.base_url, FRAMEWORK)
    return client.start(hooks.recorder, FRAMEWORK, operation, given.get("model"), server)


def _read(inference: Inference, answer: Any) -> None:
    """Take over what an answer, or the last chunk of one, says of itself."""
    said = vars(answer)
    note_model(inference, said.get("model"))
    note_finish(inference, said.get("done_reason"))
    prompt, output = count(said.get("prompt_eval_count")), count(said.get("eval_count"))
    if prompt is not None:
        inference.input_tokens = prompt
    if output is not None and inference.series.generative:
        inference.output_tokens = output
