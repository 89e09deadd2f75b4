"""vLLM: one request per prompt, from its submission to an engine to its last output.

Everything happens in the front end, the process that has the ``LLM``, the ``AsyncLLM`` or the OpenAI
server: the engine's core and its workers, mostly processes of their own, stay silent. A request is
submitted in ``add_request``; it ends where the front end's ``OutputProcessor`` lets go of its last
sequence, however that comes about. Nothing is hooked that runs once per step and request.
"""

from __future__ import annotations

import atexit
import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon.core.call import leave
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.vllm_beam_search import (
    hook_beam_search,
    hook_beam_search_of,
    hook_online_beam_search,
)
from otel_aimon.instrumentation.vllm_calls import (
    current_call,
    hook_generation,
    hook_pooling,
    hook_pooling_of,
    operation_of,
)
from otel_aimon.instrumentation.vllm_processes import hook_core, hook_workers
from otel_aimon.instrumentation.vllm_requests import Entry, Ledger, Requests
from otel_aimon.instrumentation.vllm_serving import hook_pooling_serving, hook_serving
from otel_aimon.instrumentation.vllm_statistics import (
    hook_stat_loggers,
    keeps_statistics,
    unasked,
    with_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.instrumentation.hooks import Hooks

_SUBMITTED = create_key("otel-aimon-vllm-submitted")
"""Under this key the context inside ``add_request`` carries the request that is being submitted."""

__all__ = [
    "hook_async_engine",
    "hook_beam_search",
    "hook_core",
    "hook_core_client",
    "hook_engine",
    "hook_llm",
    "hook_online_beam_search",
    "hook_outputs",
    "hook_pooling",
    "hook_pooling_serving",
    "hook_serving",
    "hook_stat_loggers",
    "hook_workers",
]

_requests: dict[int, Requests] = {}


def _books(hooks: Hooks) -> Requests:
    """The books that all hooks of one arming share."""
    found = _requests.get(id(hooks))
    if found is None:
        found = _requests[id(hooks)] = Requests(hooks.recorder)
        hooks.on_restore(functools.partial(_requests.__delitem__, id(hooks)))
        # Registered later than the providers' and ours, so called before they export for the last time.
        atexit.register(found.close_all)
        hooks.on_restore(functools.partial(atexit.unregister, found.close_all))
    return found


# --- submission --------------------------------------------------------------------------------


def hook_async_engine(hooks: Hooks, module: Any) -> None:
    """Hook ``AsyncLLM``, on which the OpenAI server stands too."""
    requests = _books(hooks)
    hooks.wrap(
        module.AsyncLLM,
        "add_request",
        functools.partial(_observe_async_submission, requests),
        ("request_id", "prompt", "params"),
    )
    hooks.wrap(module.AsyncLLM, "shutdown", functools.partial(_observe_shutdown, requests))


def hook_engine(hooks: Hooks, module: Any) -> None:
    """Hook ``LLMEngine``, on which ``LLM`` stands."""
    requests = _books(hooks)
    engine = module.LLMEngine
    hooks.wrap(
        engine,
        "add_request",
        functools.partial(_observe_submission, requests),
        ("request_id", "prompt", "params"),
    )
    hooks.wrap(engine, "step", functools.partial(_observe_step, requests))
    hooks.wrap(engine, "__init__", keeps_statistics, ("log_stats",))


def hook_core_client(hooks: Hooks, module: Any) -> None:
    """Hook the function that makes an engine's core."""
    hooks.wrap(module.EngineCoreClient, "make_client", with_statistics, ("log_stats",))


def hook_llm(hooks: Hooks, module: Any) -> None:
    """Hook ``LLM``, which inherits its pooling and its beam search, or else has them itself."""
    llm = module.LLM
    hooks.wrap(llm, "__init__", unasked)
    hook_generation(hooks, llm)
    hook_pooling_of(hooks, llm)
    if "beam_search" in vars(llm):
        hook_beam_search_of(hooks, llm)


def _submitter(requests: Requests, original: Any) -> Callable[..., Entry | None]:
    """What starts the request of a call of ``add_request``."""
    names = tuple(inspect.signature(original).parameters)

    def submit(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry | None:
        known = dict(zip(names[1:], args, strict=False))
        known.update(kwargs)
        params = known.get("params")
        generative = hasattr(params, "max_tokens")
        entry = requests.submit(
            engine,
            operation_of(known.get("request_id"), params, generative=generative),
            known.get("lora_request"),
            known.get("trace_headers"),
            generative=generative,
        )
        if entry is not None:
            entry.call = current_call()
            entry.sessional = inspect.isasyncgen(known.get("prompt"))
        return entry

    return submit


def _observe_submission(requests: Requests, original: Any) -> Any:
    submit = _submitter(requests, original)

    @functools.wraps(original)
    def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = guarded(submit, self, args, kwargs)
        if entry is None:
            return original(self, *args, **kwargs)
        token = attach(set_value(_SUBMITTED, entry))
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            detach(token)
            guarded(_refuse, entry, error)
            raise
        detach(token)
        return result

    return add_request


def _observe_async_submission(requests: Requests, original: Any) -> Any:
    submit = _submitter(requests, original)

    @functools.wraps(original)
    async def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = guarded(submit, self, args, kwargs)
        if entry is None:
            return await original(self, *args, **kwargs)
        token = attach(set_value(_SUBMITTED, entry))
        try:
            collector = await original(self, *args, **kwargs)
        except BaseException as error:
            leave(token, error)
            guarded(_refuse, entry, error)
            raise
        detach(token)
        guarded(requests.collected_by, entry, collector)
        return collector

    return add_request


def _refuse(entry: Entry, error: BaseException) -> None:
    if entry.ledger is not None:
        entry.ledger.close(entry, error)


# --- the end -----------------------------------------------------------------------------------


def hook_outputs(hooks: Hooks, module: Any) -> None:
    """Hook where the front end takes sequences in and lets go of them."""
    requests = _books(hooks)
    processor = module.OutputProcessor

    def wrap(name: str, observe: Callable[[Requests, Any], Any], *parameters: str) -> bool:
        return hooks.wrap(processor, name, functools.partial(observe, requests), parameters)

    necessary = [
        wrap("add_request", _observe_entry, "request"),
        wrap("_update_stats_from_finished", _observe_finish, "req_state", "finish_reason"),
        wrap("abort_requests", _observe_abort, "request_ids"),
    ]
    requests.ends_are_seen = all(necessary)
    wrap("propagate_error", _observe_death, "e")
    if "_update_streaming_request_state" in vars(processor):
        wrap("_update_streaming_request_state", _observe_session, "req_state")
    if "close" in vars(module.RequestOutputCollector):
        hooks.wrap(module.RequestOutputCollector, "close", functools.partial(_observe_close, requests))


def _observe_entry(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, request, *args, **kwargs)
        entry = get_current().get(_SUBMITTED)
        if isinstance(entry, Entry):
            guarded(_enter, requests, self, entry, request.request_id)
        return result

    return add_request


def _enter(requests: Requests, processor: Any, entry: Entry, request_id: str) -> None:
    state = processor.request_states.get(request_id)
    if state is not None and entry.inference is not None:
        requests.ledger(processor).enter(entry, request_id, state)


def _observe_finish(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def update(self: Any, req_state: Any, finish_reason: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, req_state, finish_reason, *args, **kwargs)
        ledger = requests.known(self)
        if ledger is not None:
            reason = None if finish_reason is None else str(finish_reason)
            guarded(ledger.finish, req_state.request_id, reason)
        return result

    return update


def _observe_session(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def update(self: Any, req_state: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, req_state, *args, **kwargs)
        ledger = requests.known(self)
        if ledger is not None and req_state.request_id not in self.request_states:
            guarded(ledger.finish, req_state.request_id, None)
        return result

    return update


def _observe_abort(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def abort_requests(self: Any, *args: Any, **kwargs: Any) -> Any:
        aborted = original(self, *args, **kwargs)
        ledger = requests.known(self)
        if ledger is not None:
            guarded(ledger.abort, aborted)
        return aborted

    return abort_requests


def _observe_death(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def propagate_error(self: Any, e: BaseException, *args: Any, **kwargs: Any) -> Any:
        result = original(self, e, *args, **kwargs)
        guarded(_close_all, requests.known(self), e)
        return result

    return propagate_error


def _observe_close(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guarded(requests.collector_closed, self)
        return result

    return close


def _observe_step(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except Exception as error:
            guarded(_close_all, requests.known(self.output_processor), error)
            raise

    return step


def _observe_shutdown(requests: Requests, original: Any) -> Any:
    @functools.wraps(original)
    def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        processor = getattr(self, "output_processor", None)
        if processor is not None:
            guarded(_close_all, requests.known(processor), None)
        return result

    return shutdown


def _close_all(ledger: Ledger | None, error: BaseException | None) -> None:
    if ledger is not None:
        ledger.close_all(error)
