"""A call of ``generate_request``: one prompt or several, each of which is a request.

With ``n > 1`` SGLang turns a prompt into several sequences, and sends one more before them, which only puts
the prompt into the cache. A call has no end of its own where its result is not streamed: the one item is
taken, and the generator is dropped.
"""

from __future__ import annotations

import weakref
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context, create_key, get_current

from otel_aimon.instrumentation.server_requests import callers_context
from otel_aimon.instrumentation.sglang_outputs import input_tokens_of, is_last
from otel_aimon.instrumentation.sglang_serving import operation_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.instrumentation.sglang_requests import Entry, Ledger, Requests

_CALL = create_key("otel-aimon-sglang-call")
"""Under this key the context inside ``generate_request`` carries its :class:`Call`."""

_DISCONNECTED = "Request is disconnected from the client side"
"""How SGLang's message begins when it raises ``ValueError`` because a client has hung up."""


def current_call() -> Call | None:
    """The call that runs in this context."""
    found = get_current().get(_CALL)
    return found if isinstance(found, Call) and found.ledger is not None else None


class Call:
    """Follows the generator of a call, in the place of the one inference that others have.

    Args:
        requests: Starts its requests.
        manager: The ``TokenizerManager``.
        obj: What is to be generated, not yet in its normal form.
        request: What came over HTTP, or None.

    Attributes:
        context: In which SGLang works; the call's requests are not current there, since SGLang starts
            tasks in it that live for ever.
        parent: The context of the requests' parent.
        ledger: Of the manager; None before the call's first step and after its end.
        entries: Its requests so far, in the order of the prompts.
        start: When it began, on the monotonic and on the wall clock in nanoseconds.
        operation: Of all its requests.
        generative: It generates tokens.
        streams: Its outputs come piece by piece.
    """

    __slots__ = (
        "__weakref__",
        "_manager",
        "_obj",
        "_request",
        "_requests",
        "_samples",
        "_sent",
        "_watch",
        "context",
        "entries",
        "generative",
        "ledger",
        "operation",
        "parent",
        "start",
        "streams",
    )

    def __init__(self, requests: Requests, manager: Any, obj: Any, request: Any) -> None:
        self._requests = requests
        self._manager = manager
        self._obj = obj
        self._request = request
        self._samples = 0
        self._sent = 0
        self._watch: weakref.ref[Any] | None = None
        self.context: Context | None = None
        self.parent: Context | None = None
        self.ledger: Ledger | None = None
        self.entries: list[Entry] = []
        # The other kind of input has sampling parameters too, which mean nothing.
        self.generative = not hasattr(obj, "is_cross_encoder_request")
        self.streams = getattr(obj, "stream", False) is True
        self.operation = ""
        self.start = (0, 0)

    # --- what a stream expects of an inference ---

    def begin(self) -> Any:
        """The first step: it is a request from now on."""
        self.start = (perf_counter_ns(), time_ns())
        self.parent = parent = get_current()
        self.context = Context({**parent, _CALL: self})
        self.operation = operation_of(self._obj, generative=self.generative)
        self.ledger = self._requests.ledger(self._manager)
        self._manager = None
        return self

    def watch_over(self, stream: Any) -> None:
        """Cancel what still runs when the generator is dropped."""
        self._watch = weakref.ref(stream, lambda _: self.abandon())

    def chunk(self) -> None:
        """Nothing: whose output an item is, only the item says."""

    def read(self, item: Any) -> None:
        """An item that goes to the user."""
        if type(item) is list:
            for number, each in enumerate(item):
                self._read(number, each)
        elif type(item) is dict:
            self._read(item.get("index", 0) if self._samples > 1 or len(self.entries) > 1 else 0, item)

    def end(self) -> None:
        """The generator is exhausted."""
        ledger = self.ledger
        for entry in self._close():
            if ledger is not None and not entry.delivered:
                ledger.close(entry, success=True)

    def fail(self, error: BaseException) -> None:
        """The generator raised: so did all prompts that have no result."""
        if isinstance(error, GeneratorExit):
            self.abandon()
            return
        ledger, parent, obj = self.ledger, self.parent, self._obj
        if ledger is None or parent is None:
            return
        unsent = range(len(self.entries), _prompts(obj))
        refused = [self._start(obj, parent, ledger, refused=True) for _ in unsent]
        cause = None if _hung_up(error) else error
        for entry in (*self._close(), *refused):
            if entry is not None and not entry.delivered:
                ledger.close(entry, cause)

    def abandon(self) -> None:
        """The generator was closed or dropped; perhaps by the garbage collector."""
        ledger = self.ledger
        for entry in self._close():
            if ledger is not None and not entry.delivered:
                ledger.abandon(entry)

    # --- what SGLang makes of it ---

    def enter(self, manager: Any, obj: Any) -> None:
        """A sequence of it has gone to the scheduler.

        Args:
            manager: The ``TokenizerManager``.
            obj: The sequence's own part of what is to be generated.
        """
        if self.ledger is None or self.parent is None:
            return
        prompts = _prompts(self._obj)
        self._samples = samples = max(int(getattr(self._obj, "parallel_sample_num", 1) or 1), 1)
        number, self._sent = self._sent, self._sent + 1
        warming = samples > 1 and number < prompts
        prompt = number if samples == 1 or warming else (number - prompts) // samples
        if prompt >= len(self.entries):
            entry = self._start(obj, self.parent, self.ledger)
            if entry is None:
                return
            self.entries.append(entry)
            entry.pending = samples
        self.ledger.enter(self.entries[prompt], obj.rid, manager.rid_to_state.get(obj.rid), warming=warming)

    def _start(self, obj: Any, parent: Context, ledger: Ledger, *, refused: bool = False) -> Entry | None:
        parent = callers_context(parent, *_sender(self._obj, self._request))
        # An adapter that SGLang has not accepted is a name that anybody may make up.
        lora = None if refused else getattr(obj, "lora_path", None)
        return self._requests.start(self, ledger, parent, lora, span=refused or not ledger.traces(obj))

    def _read(self, number: Any, item: Any) -> None:
        if type(number) is not int or type(item) is not dict:
            return
        prompt = number // (self._samples or 1)
        if not 0 <= prompt < len(self.entries):
            return
        entry = self.entries[prompt]
        inference = entry.inference
        if inference is None or self.ledger is None:
            return
        meta = item.get("meta_info")
        if type(meta) is not dict:
            return
        if self.streams:
            inference.chunk()
            if inference.input_tokens is None:
                inference.input_tokens, cached = input_tokens_of(meta)
                if inference.cached_tokens is None:
                    inference.cached_tokens = cached
        if is_last(meta):
            if self.ledger.sees_outputs:
                # Its numbers are there too, with the times; the message that brought it is still handled.
                entry.delivered = entry.delivered or not self.streams or self._samples == 1
            else:
                self.ledger.finish_delivered(meta)

    def _close(self) -> list[Entry]:
        """Let go of everything: SGLang's tasks carry the call for ever."""
        entries, self.entries = self.entries, []
        self.ledger = self.parent = self.context = self._watch = None
        self._obj = self._request = self._manager = None
        return entries


def _prompts(obj: Any) -> int:
    """How many prompts there are; one where SGLang has not come so far as to count them."""
    if getattr(obj, "is_single", True) is not False:
        return 1
    size = getattr(obj, "batch_size", 1)
    return size if type(size) is int else 1


def _hung_up(error: BaseException) -> bool:
    if not isinstance(error, ValueError) or not error.args:
        return False
    message = error.args[0]
    return isinstance(message, str) and message.startswith(_DISCONNECTED)


def _sender(obj: Any, request: Any) -> tuple[dict[str, str] | None, Iterable[tuple[bytes, bytes]]]:
    """What says where the request comes from: what the caller of an engine gave, or the headers of HTTP."""
    scope = getattr(request, "scope", None)
    if type(scope) is dict:
        return None, scope.get("headers") or ()
    given = getattr(obj, "external_trace_header", None)
    return (given if type(given) is dict else None), ()
