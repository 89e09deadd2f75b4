"""Which instrumented call owns a request, and which nested calls become its stages.

Frameworks stand on each other: a pipeline calls ``generate``, ``generate`` calls the model once a
token. The outermost call owns the request. A nested call of a deeper layer may become a *stage*, a
child span with a duration of its own; a model call inside ``generate`` never does.
"""

from __future__ import annotations

from enum import IntEnum


class Layer(IntEnum):
    """How far an instrumented call is from the user, outermost first."""

    REQUEST = 0
    """Recorded by hand, or by a server."""
    PIPELINE = 1
    """Takes the user's objects, gives the user's objects: pre-processing, model, post-processing."""
    GENERATE = 2
    """A decoding loop: calls the model once per token."""
    MODEL = 3
    """One pass through a model."""
    QUIET = 9
    """Not a request at all: whatever runs inside, such as training, stays silent."""


MAX_STAGES = 32
"""Stages recorded per request; a hand-written decoding loop would make one per token."""

STAGES_INSIDE: dict[Layer, frozenset[Layer]] = {
    Layer.REQUEST: frozenset({Layer.REQUEST, Layer.PIPELINE, Layer.GENERATE, Layer.MODEL}),
    Layer.PIPELINE: frozenset({Layer.GENERATE, Layer.MODEL}),
    Layer.GENERATE: frozenset(),
    Layer.MODEL: frozenset(),
    Layer.QUIET: frozenset(),
}
