"""``@serve.batch``: the calls of a batch share the model's work.

It is inside the first of them, and the others are linked to it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach, get_current

from otel_aimon.core.call import leave
from otel_aimon.core.guard import guarded
from otel_aimon.core.recorder import running_in
from otel_aimon.instrumentation.known import Known
from otel_aimon.instrumentation.server_requests import begin_batch

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "ray_serve"


async def awaited(context: Context, coroutine: Any) -> Any:
    """Await ``coroutine`` in ``context``."""
    token = attach(context)
    try:
        result = await coroutine
    except BaseException as error:
        leave(token, error)
        raise
    detach(token)
    return result


def hook_batches(hooks: Hooks, module: Any) -> None:
    """Hook ``@serve.batch``.

    Args:
        hooks: Of Ray Serve.
        module: ``ray.serve.batching``.
    """
    waiting: Known[Inference] = Known()
    queue = module._BatchQueue
    hooks.wrap(module._SingleRequest, "__init__", functools.partial(_observe_entry, waiting))
    name = "_process_batch_inner" if "_process_batch_inner" in vars(queue) else "_process_batch"
    hooks.wrap(queue, name, functools.partial(_observe_batch, waiting), ("func", "batch"))


def _observe_entry(waiting: Known[Inference], original: Any) -> Any:
    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        guarded(_enter, waiting, self)

    return init


def _enter(waiting: Known[Inference], entry: Any) -> None:
    inference = running_in(get_current())
    if inference is not None and inference.series.framework == FRAMEWORK:
        waiting.learn(entry, inference)


def _observe_batch(waiting: Known[Inference], original: Any) -> Any:
    @functools.wraps(original)
    async def process_batch(self: Any, func: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        context = guarded(_begin_batch, waiting, batch)
        if context is None:
            return await original(self, func, batch, *args, **kwargs)
        return await awaited(context, original(self, func, batch, *args, **kwargs))

    return process_batch


def _begin_batch(waiting: Known[Inference], batch: Any) -> Any:
    wanted = [entry for entry in batch if not entry.future.cancelled()]
    known = [inference for entry in wanted if (inference := waiting.take(entry)) is not None]
    return begin_batch([inference for inference in known if not inference.end_ns], len(wanted))
