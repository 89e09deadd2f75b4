"""OpenAI's client: each call is one request to a remote model, with the retries that it takes.

``stream()`` helpers call ``create``; ``parse`` does not. Answers that are asked for in the raw are not read:
their request ends with the answer's headers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.instrumentation import client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "openai"

_OPERATIONS = {
    "openai.resources.chat.completions.completions": ("Completions", semconv.CHAT),
    "openai.resources.completions": ("Completions", semconv.TEXT_COMPLETION),
    "openai.resources.responses.responses": ("Responses", semconv.CHAT),
    "openai.resources.embeddings": ("Embeddings", semconv.EMBEDDINGS),
}
"""Module → its class, and what it asks for. The class's asynchronous twin begins with ``Async``."""

_METHODS = ("create", "parse")

_streams = client.Streams()
_is_anothers = client.remembered(client.belongs_to_another)


def hook_resources(hooks: Hooks, module: Any) -> None:
    """Hook the methods of one part of the interface.

    Args:
        hooks: Of the client.
        module: One of those in the table.
    """
    name, operation = _OPERATIONS[module.__name__]
    begin = functools.partial(_start, hooks, operation)
    for cls, asynchronous in ((name, False), (f"Async{name}", True)):
        owner = getattr(module, cls)
        for method in _METHODS:
            if method in vars(owner):
                client.hook_call(hooks, owner, method, begin, asynchronous=asynchronous, streams=_streams)


def hook_streams(hooks: Hooks, module: Any) -> None:
    """Hook the ends of streams that are not read to their own.

    Args:
        hooks: Of the client.
        module: ``openai._streaming``.
    """
    _streams.hook_close(hooks, module.Stream)
    _streams.hook_close(hooks, module.AsyncStream)


def _start(hooks: Hooks, operation: str, resource: Any, given: Mapping[str, Any]) -> Inference | None:
    api = resource._client
    # OpenInference instruments the method that all requests go through.
    if _is_anothers(getattr(type(api), "request", None)):
        return None
    server = client.server_at(api.base_url, FRAMEWORK)
    return client.start(hooks.recorder, FRAMEWORK, operation, given.get("model"), server)
