"""Continuous batching: one request per submitted prompt, from ``add_request`` to its final output.

The framework works on a thread of its own, many requests in one model call. What it knows of a
request it writes into a ``RequestState``; the methods of that class say when a token came out and
when the output is final.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.transformers_ledger import Ledger, Ledgers, Submitted

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

_LEDGER = create_key("otel-aimon-ledger")
"""Under this key the context of a manager's thread carries the manager's ledger."""

_SUBMITTED = create_key("otel-aimon-submitted")
"""Under this key the context inside ``add_request`` carries the request that is being submitted."""

_REJECTED = "rejected"
"""``error.type`` of a request that a manager did not accept, because it stops or has crashed."""

_TOKEN_METHODS = ("update_and_check_completion", "update_with_token")
"""What the framework calls with each token of a request, in version 5 and 4."""


def hook_continuous_batching(hooks: Hooks, module: Any) -> None:
    """Hook the manager, and the state of a request.

    Args:
        hooks: Of Transformers.
        module: ``transformers.generation.continuous_batching.continuous_api``.
    """
    ledgers = Ledgers(hooks.recorder)
    manager = module.ContinuousBatchingManager
    hooks.wrap(manager, "add_request", functools.partial(_observe_submission, ledgers), ("input_ids",))
    hooks.wrap(manager, "cancel_request", functools.partial(_observe_cancellation, ledgers), ("request_id",))
    hooks.wrap(manager, "_run_generation_loop", functools.partial(_observe_loop, ledgers))
    hooks.wrap(manager, "_handle_critical_error", _observe_crash, ("error",))
    hooks.wrap(manager, "warmup", lambda original: quiet(original, hooks.recorder))
    state = module.RequestState
    hooks.wrap(state, "__init__", _observe_creation, ("request_id",))
    token_method = next((name for name in _TOKEN_METHODS if name in vars(state)), _TOKEN_METHODS[0])
    hooks.wrap(state, token_method, _observe_token)
    hooks.wrap(state, "to_generation_output", _observe_output)
    hooks.wrap(module.ContinuousBatchProcessor, "_handle_request_error", _observe_failure, ("error", "state"))
    router = getattr(module, "OutputRouter", None)
    if router is not None:
        hooks.wrap(router, "fail_and_deliver", _observe_failure, ("state", "error"))


# --- the user's threads ------------------------------------------------------------------------


def _observe_submission(ledgers: Ledgers, original: Any) -> Any:
    @functools.wraps(original)
    def add_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = guarded(_submit, ledgers, self)
        if entry is None:
            return original(self, *args, **kwargs)
        ledger = ledgers.of(self)
        token = attach(set_value(_SUBMITTED, (ledger, entry)))
        try:
            request_id = original(self, *args, **kwargs)
        except BaseException as error:
            detach(token)
            ledger.take(entry.request_id)
            entry.inference.fail(error)
            raise
        detach(token)
        if entry.request_id is None:
            entry.inference.fail_as(_REJECTED)
        return request_id

    return add_request


def _submit(ledgers: Ledgers, manager: Any) -> Submitted | None:
    if not getattr(manager, "is_tp_driver", True):
        # With tensor parallelism one process submits; in the others this call does nothing.
        return None
    ledger = ledgers.of(manager)
    inference = ledgers.recorder.start(ledger.series, Layer.GENERATE)
    if inference is None:
        return None
    inference.device = ledger.device
    inference.batch_size = 1
    return Submitted(inference, getattr(manager, "num_return_sequences", 1))


def _observe_creation(original: Any) -> Any:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is that method
        original(self, *args, **kwargs)
        submission: Any = get_current().get(_SUBMITTED)
        if submission is not None:
            ledger, entry = submission
            guarded(_register, ledger, entry, self.request_id)

    return __init__


def _register(ledger: Ledger, entry: Submitted, request_id: str) -> None:
    """Enter a request under its id, before the manager's thread can know it."""
    entry.request_id = request_id
    displaced = ledger.take(request_id)
    ledger.running[request_id] = entry
    if displaced is not None:
        # The user gave two requests one id: the framework forgets the first one too.
        displaced.inference.cancel()


def _observe_cancellation(ledgers: Ledgers, original: Any) -> Any:
    @functools.wraps(original)
    def cancel_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        guarded(_cancel, ledgers, self, args, kwargs)
        return result

    return cancel_request


def _cancel(ledgers: Ledgers, manager: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    entry = ledgers.of(manager).take(args[0] if args else kwargs.get("request_id"))
    if entry is not None:
        entry.inference.cancel()


# --- the manager's thread ----------------------------------------------------------------------


def _observe_loop(ledgers: Ledgers, original: Any) -> Any:
    @functools.wraps(original)
    def run_generation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The model calls of the loop belong to many requests at once: they are none themselves.
        context = ledgers.recorder.quiet_context()
        ledger = guarded(ledgers.of, self)
        token = attach(set_value(_LEDGER, ledger, context))
        try:
            return original(self, *args, **kwargs)
        finally:
            detach(token)
            if ledger is not None:
                ledger.end_all(None)

    return run_generation_loop


def _observe_crash(original: Any) -> Any:
    @functools.wraps(original)
    def handle_critical_error(self: Any, error: BaseException, *args: Any, **kwargs: Any) -> Any:
        result = original(self, error, *args, **kwargs)
        ledger = get_current().get(_LEDGER)
        if isinstance(ledger, Ledger):
            # Those of which the framework, in some of its versions, tells nobody.
            ledger.end_all(error)
        return result

    return handle_critical_error


def _observe_token(original: Any) -> Any:
    @functools.wraps(original)
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Before the framework's own update, which may be the last one and end the request.
        guarded(_read_token, self)
        return original(self, *args, **kwargs)

    return update


def _read_token(state: Any) -> None:
    entry = _entry_of(state)
    if entry is None:
        return
    inference = entry.inference
    inference.chunk()
    if inference.queue_ns is None and state.request_id == entry.request_id:
        inference.queue_ns = int(max(state.lifespan[0] - state.created_time, 0.0) * 1e9)


def _observe_failure(original: Any) -> Any:
    @functools.wraps(original)
    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        guarded(_read_error, *args, *kwargs.values())
        return original(self, *args, **kwargs)

    return fail


def _read_error(first: Any, second: Any) -> None:
    error, state = (first, second) if isinstance(first, BaseException) else (second, first)
    entry = _entry_of(state)
    if entry is not None:
        entry.error = error


def _observe_output(original: Any) -> Any:
    @functools.wraps(original)
    def to_generation_output(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        guarded(_read_output, self, output)
        return output

    return to_generation_output


def _entry_of(state: Any) -> Submitted | None:
    ledger = get_current().get(_LEDGER)
    return ledger.find(state.request_id) if isinstance(ledger, Ledger) else None


def _read_output(state: Any, output: Any) -> None:
    entry = _entry_of(state)
    status = output.status.name
    if entry is None or status not in {"FINISHED", "FAILED"}:
        return
    inference = entry.inference
    generated = output.generated_tokens
    inference.input_tokens = len(output.prompt_ids)
    inference.output_tokens = (inference.output_tokens or 0) + len(generated)
    inference.steps = max(inference.steps or 0, len(generated))
    entry.sequences -= 1
    if status == "FAILED":
        _give_up(entry)
        return
    reason = "stop" if generated and generated[-1] in _end_ids(state) else "length"
    inference.finish_reasons = (*(inference.finish_reasons or ()), reason)
    if entry.sequences <= 0:
        _strike(entry)
        inference.end()


def _give_up(entry: Submitted) -> None:
    _strike(entry)
    error, entry.error = entry.error, None
    if error is None:
        entry.inference.fail_as(semconv.ERROR_TYPE_OTHER)
    elif error.__traceback__ is None:
        # Nothing raised it: so the loop tells the requests that a stop has left over.
        entry.inference.cancel()
    else:
        entry.inference.fail(error)


def _strike(entry: Submitted) -> None:
    ledger = get_current().get(_LEDGER)
    if isinstance(ledger, Ledger):
        ledger.take(entry.request_id)


def _end_ids(state: Any) -> Any:
    ids = getattr(state, "_eos_token_ids", None)
    return (state.eos_token_id,) if ids is None else ids
