"""Anthropic's client: each message is one request to a remote model, with the retries that it takes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core.call import observed, observed_async
from otel_aimon.instrumentation import client
from otel_aimon.instrumentation.client_answers import count, note_finish, note_model, part

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "anthropic"

_METHODS = ("create", "parse")
_REQUEST = "__api_request"

_is_anothers = client.remembered(client.belongs_to_another)


def hook_messages(hooks: Hooks, module: Any) -> None:
    """Hook the messages, also those of the beta interface.

    Args:
        hooks: Of the client.
        module: ``anthropic.resources.messages.messages`` or ``anthropic.resources.beta.messages.messages``.
    """
    begin = functools.partial(_start, hooks)
    for cls, asynchronous in (("Messages", False), ("AsyncMessages", True)):
        owner = getattr(module, cls)
        for method in _METHODS:
            if method in vars(owner):
                client.hook_call(
                    hooks, owner, method, begin, asynchronous=asynchronous, streams=_streams, read=_read
                )
        hooks.wrap(owner, "stream", functools.partial(_observe_manager, begin, asynchronous), ("model",))


def hook_streams(hooks: Hooks, module: Any) -> None:
    """Hook the ends of streams that are not read to their own.

    Args:
        hooks: Of the client.
        module: ``anthropic._streaming``.
    """
    _streams.hook_close(hooks, module.Stream)
    _streams.hook_close(hooks, module.AsyncStream)


def _start(hooks: Hooks, resource: Any, given: Mapping[str, Any]) -> Inference | None:
    api = resource._client
    if _is_anothers(getattr(type(api), "request", None)):
        return None
    server = client.server_at(api.base_url, FRAMEWORK)
    return client.start(hooks.recorder, FRAMEWORK, semconv.CHAT, given.get("model"), server)


# --- the answer --------------------------------------------------------------------------------


def _read(inference: Inference, answer: Any) -> None:
    """Take over what a message, or an event of its stream, says of itself."""
    message = part(answer, "message") or answer
    note_model(inference, part(message, "model"))
    note_finish(inference, part(part(answer, "delta"), "stop_reason") or part(message, "stop_reason"))
    usage = part(message, "usage")
    if usage is None:
        return
    cached = count(part(usage, "cache_read_input_tokens"))
    fresh = count(part(usage, "input_tokens"))
    if fresh is not None:
        # Anthropic counts the tokens that it read from or wrote to its cache apart; the convention wants all.
        written = count(part(usage, "cache_creation_input_tokens")) or 0
        inference.input_tokens = fresh + written + (cached or 0)
    if cached is not None:
        inference.cached_tokens = cached
    produced = count(part(usage, "output_tokens"))
    if produced is not None:
        # Of an event, it is the sum so far.
        inference.output_tokens = produced


_streams = client.Streams(_read)


# --- stream() ----------------------------------------------------------------------------------


def _observe_manager(begin: Callable[..., Inference | None], asynchronous: bool, original: Any) -> Any:
    """The request is made when the manager is entered."""

    @functools.wraps(original)
    def stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        manager = original(self, *args, **kwargs)
        name = f"_{type(manager).__name__}{_REQUEST}"
        request = getattr(manager, name, None)
        if request is None or client.belongs_to_another(original):
            return manager

        def start(_args: Any, _kwargs: Any) -> Inference | None:
            return begin(self, kwargs)

        if asynchronous:

            async def ask() -> Any:
                return await request

            setattr(manager, name, _Later(observed_async(ask, start, streamed=_streams.follow)))
        else:
            setattr(manager, name, observed(request, start, streamed=_streams.follow))
        return manager

    return stream


class _Later:
    """Something to await that starts only then, as the SDK's own request does."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask

    def __await__(self) -> Generator[Any, Any, Any]:
        result: Generator[Any, Any, Any] = self._ask().__await__()
        return result
