"""What another distribution needs to instrument a framework that otel-aimon does not know.

``__all__`` is a contract, as that of :mod:`otel_aimon` is. ``examples/new_framework`` uses it: a row that says
what to hook, functions that hook it, and an :class:`Instrumentor` that OpenTelemetry loads.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from otel_aimon import semconv
from otel_aimon.core.call import observed, observed_async, quiet
from otel_aimon.core.inference import Inference
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_stream
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS, FrameworkInstrumentor
from otel_aimon.instrumentation import registry
from otel_aimon.instrumentation.hooks import Hooks
from otel_aimon.instrumentation.registry import Framework

__all__ = [
    "Framework",
    "Hooks",
    "Inference",
    "Instrumentor",
    "Layer",
    "observed",
    "observed_async",
    "observed_stream",
    "quiet",
    "semconv",
]

logger = logging.getLogger("otel_aimon")


class Instrumentor(FrameworkInstrumentor):
    """Instruments one framework from another distribution.

    A subclass says which, and is declared as an entry point called ``aimon_<name>``::

        class FooInstrumentor(Instrumentor):
            row = Framework(name="foo", ..., module="foo_aimon.hooks")

        [project.entry-points.opentelemetry_instrumentor]
        aimon_foo = "foo_aimon:FooInstrumentor"

    From the moment when it is defined, :func:`otel_aimon.instrument` instruments its framework too. A name that is one
    of otel-aimon's own is refused with one log line.

    Attributes:
        row: The framework: its name, the modules to wait for, and where the hook functions are.
    """

    row: ClassVar[Framework]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.row.name
        if not registry.add(cls.row):
            logger.warning(
                "otel-aimon: %s instruments %s itself, and %s stays without effect.",
                __package__,
                name,
                cls.__qualname__,
            )
            return
        cls.framework = name
        cls.entry_point = f"aimon_{name}"
        FRAMEWORK_INSTRUMENTORS[name] = cls

    def _instrument(self, **kwargs: Any) -> None:
        if self.framework:
            super()._instrument(**kwargs)
