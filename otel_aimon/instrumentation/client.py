"""What the clients of remote models share: whom they ask, and whose request it is."""

from __future__ import annotations

import functools
import inspect
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from otel_aimon import semconv
from otel_aimon.core.call import observed, observed_async
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_async_generator, observed_generator
from otel_aimon.instrumentation.client_answers import is_pydantic, read_answer
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

    Start = Callable[[Any, Mapping[str, Any]], Inference | None]
    """Starts the request of a call: gets what was called upon, and the arguments by name."""

PROVIDERS: dict[str, str] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "amazonaws.com": "aws.bedrock",
}
"""End of a host's name → ``gen_ai.provider.name``, in the convention's words."""

_OTHERS = (
    "opentelemetry.instrumentation.",
    "openinference.",
    "openlit",
    "traceloop.",
    "ddtrace.",
    "langfuse",
    "logfire",
)
"""Modules of other instrumentations that make a span of each request of a client."""


class Server(NamedTuple):
    """Whom a client asks.

    Attributes:
        provider: ``gen_ai.provider.name``.
        address: Name or address of the host.
        port: Its port.
    """

    provider: str
    address: str | None = None
    port: int | None = None


def server_at(url: Any, otherwise: str) -> Server:
    """The server behind an address.

    Args:
        url: An ``httpx.URL`` or a text; its path and its query are not read.
        otherwise: The provider, where the host is nobody that we know: whose interface it speaks.
    """
    if isinstance(url, str):
        return _server_at_text(url, otherwise)
    return _servers.of(url) or _servers.learn(url, _server(url, otherwise))


_servers: Known[Server] = Known()
"""Addresses are objects that do not change, one per client."""


@functools.lru_cache(maxsize=256)
def _server_at_text(url: str, otherwise: str) -> Server:
    return _server(urlsplit(url), otherwise)


def _server(url: Any, otherwise: str) -> Server:
    host = getattr(url, "host", None) or getattr(url, "hostname", None)
    if not isinstance(host, str) or not host:
        return Server(otherwise)
    port = url.port or {"https": 443, "http": 80}.get(url.scheme)
    known = (name for end, name in PROVIDERS.items() if host == end or host.endswith("." + end))
    return Server(next(known, otherwise), host, port)


def start(
    recorder: Recorder,
    framework: str,
    operation: str,
    model: Any,
    server: Server,
    layer: Layer = Layer.GENERATE,
) -> Inference | None:
    """Start a request to a remote model.

    Args:
        recorder: Starts it.
        framework: Key in the registry.
        operation: The operation in the conventions' words.
        model: The model that is asked for, if it is a text.
        server: Whom it goes to.
        layer: Where it stands among nested layers.
    """
    series = recorder.series(
        framework,
        operation,
        model if isinstance(model, str) and model else None,
        provider=server.provider,
        kind=SpanKind.CLIENT,
    )
    inference = recorder.start(series, layer)
    if inference is not None and server.address is not None:
        inference.details = {semconv.SERVER_ADDRESS: server.address}
        if server.port is not None:
            inference.details[semconv.SERVER_PORT] = server.port
    return inference


# --- the call ----------------------------------------------------------------------------------


class Streams:
    """The requests whose answers are streams of the kind that the generated SDKs share: ``_iterator`` is a generator.

    The generator is replaced, the stream stays what it is.
    """

    def __init__(self, read: Callable[[Inference, Any], None] = read_answer) -> None:
        self._read = read
        self._running: Known[Inference] = Known()

    def follow(self, inference: Inference, answer: Any) -> Any:
        """Go on with the request while the stream is read; None where the answer is no stream."""
        if isinstance(answer, GeneratorType):
            return observed_generator(answer, inference, self._read)
        if isinstance(answer, AsyncGeneratorType):
            return observed_async_generator(answer, inference, self._read)
        if is_pydantic(answer):
            return None
        iterator = getattr(answer, "_iterator", None)
        if isinstance(iterator, GeneratorType):
            answer._iterator = observed_generator(iterator, inference, self._read)
        elif isinstance(iterator, AsyncGeneratorType):
            answer._iterator = observed_async_generator(iterator, inference, self._read)
        else:
            return None
        self._running.learn(answer, inference)
        return answer

    def hook_close(self, hooks: Hooks, stream: Any, name: str = "close") -> None:
        """Hook the method by which the user lets go of a stream."""
        hooks.wrap(stream, name, self._closing)

    def _closing(self, original: Any) -> Any:
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def aclose(self_: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    return await original(self_, *args, **kwargs)
                finally:
                    self._left(self_)

            return aclose

        @functools.wraps(original)
        def close(self_: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self_, *args, **kwargs)
            finally:
                self._left(self_)

        return close

    def _left(self, stream: Any) -> None:
        inference = self._running.take(stream)
        if inference is not None:
            leave_stream(inference)


def leave_stream(inference: Inference) -> None:
    """End the request of a stream that nobody reads on: an answer that was all there is a success."""
    if inference.finish_reasons:
        inference.end()
    else:
        inference.cancel()


def hook_call(
    hooks: Hooks,
    owner: Any,
    name: str,
    begin: Start,
    *,
    asynchronous: bool,
    streams: Streams | None = None,
    read: Callable[[Inference, Any], None] = read_answer,
) -> None:
    """Make each call of a client's method, or of a function, a request.

    Args:
        hooks: Of the client.
        owner: The class whose body has the method, or the module.
        name: The method.
        begin: Starts the request.
        asynchronous: It returns something to await.
        streams: Follows answers that are streams.
        read: Reads an answer that is none.
    """

    def make(original: Any) -> Any:
        names = tuple(inspect.signature(original).parameters)
        anothers = recorded_by_another(owner, name, original)

        def begin_unless_another(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            if anothers():
                return None
            given = {**dict(zip(names, args, strict=False)), **kwargs} if len(args) > 1 else kwargs
            return begin(args[0] if args else None, given)

        def finish(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
            read(inference, result)

        wrap: Any = observed_async if asynchronous else observed
        return wrap(original, begin_unless_another, finish, streamed=streams and streams.follow)

    hooks.wrap(owner, name, make)


def remembered(judge: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Remember the answer about the object that was asked about last, which is nearly always the same."""
    last: tuple[Any, bool] = (None, judge(None))

    def answer(about: Any) -> bool:
        nonlocal last
        known, found = last
        if known is not about:
            found = judge(about)
            last = (about, found)
        return found

    return answer


def recorded_by_another(owner: Any, name: str, original: Any) -> Callable[[], bool]:
    """What tells whether another instrumentation makes the spans of a method: it was there before us, or came since.

    Args:
        owner: The class, or the module.
        name: The method.
        original: What we have found there.
    """
    if belongs_to_another(original):
        return lambda: True
    is_anothers = remembered(belongs_to_another)
    return lambda: is_anothers(getattr(owner, name, None))


def belongs_to_another(function: Any) -> bool:
    """Whether another instrumentation has wrapped a function: the span of its requests is theirs."""
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        module = getattr(wrapper, "__module__", None)
        if module is None:
            module = getattr(function, "__globals__", {}).get("__name__")
        if isinstance(module, str) and module.startswith(_OTHERS):
            return True
        function = getattr(function, "__wrapped__", None)
    return False
