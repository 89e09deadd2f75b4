"""vLLM's OpenAI server: requests that it answers with an error before an engine sees them.

Its newer versions raise, and an exception handler answers; its older ones catch, and return an
``ErrorResponse``. Both are one failed request, except where the client asked for what does not exist.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach, set_value

from otel_aimon import semconv
from otel_aimon.core.call import leave
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.vllm_calls import CALL, POOLING, Call, current_call, refuse

if TYPE_CHECKING:
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

RERANK = "rerank"
"""Operation of a request that the newer classes take for one of scores."""

_SERVED = {
    "create_completion": semconv.TEXT_COMPLETION,
    "create_chat_completion": semconv.CHAT,
    "create_responses": semconv.CHAT,
    "create_embedding": semconv.EMBEDDINGS,
    "create_classify": "classify",
    "create_pooling": POOLING,
    "create_score": "score",
    "do_rerank": RERANK,
}
"""Methods of the server's classes, and what a request does that one of them refuses."""

_BY_PREFIX = {"embd": semconv.EMBEDDINGS, "classify": "classify", "score": "score"}
"""Operations of the newer classes for pooling, which are all called alike, by ``request_id_prefix``."""

_NOT_FOUND = "NotFoundError"
"""How the errors of what does not exist are called, such as a model: the server answers with 404."""


def hook_serving(hooks: Hooks, module: Any) -> None:
    """Hook the classes of the OpenAI server, of which a module has one or some."""
    for owner in list(vars(module).values()):
        if not isinstance(owner, type) or owner.__module__ != module.__name__:
            continue
        for method, operation in _SERVED.items():
            if method in vars(owner):
                hooks.wrap(owner, method, functools.partial(_observe_served, hooks.recorder, operation))


def hook_pooling_serving(hooks: Hooks, module: Any) -> None:
    """Hook the class of the OpenAI server that pools."""
    owner = getattr(module, "PoolingBaseServing", None) or module.PoolingServingBase
    hooks.wrap(owner, "__call__", functools.partial(_observe_served, hooks.recorder, None))


def _observe_served(recorder: Recorder, operation: str | None, original: Any) -> Any:
    @functools.wraps(original)
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_call() is not None:
            return await original(self, *args, **kwargs)
        call = Call(RERANK if operation is None and guarded(_reranks, args, kwargs) else None)
        token = attach(set_value(CALL, call))
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            guarded(_raised, recorder, call, operation, self, error)
            raise
        detach(token)
        if type(result).__name__ == "ErrorResponse":
            guarded(_answered, recorder, call, operation, self, result)
        return result

    return method


def _reranks(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    request = args[0] if args else kwargs.get("request")
    return type(request).__name__ == "RerankRequest"


def _raised(
    recorder: Recorder, call: Call, operation: str | None, serving: Any, error: BaseException
) -> None:
    if not any(each.__name__.endswith(_NOT_FOUND) for each in type(error).__mro__):
        refuse(recorder, call, operation or call.operation or _operation_of(serving), serving, error)


def _answered(recorder: Recorder, call: Call, operation: str | None, serving: Any, answer: Any) -> None:
    kind = getattr(getattr(answer, "error", answer), "type", None)
    if isinstance(kind, str) and not kind.endswith(_NOT_FOUND):
        refuse(recorder, call, operation or call.operation or _operation_of(serving), serving, kind)


def _operation_of(serving: Any) -> str:
    return _BY_PREFIX.get(str(getattr(serving, "request_id_prefix", None)), POOLING)
