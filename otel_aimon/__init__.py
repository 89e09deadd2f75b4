"""Watch AI models serve inference: spans, metrics, alerts and hints over OpenTelemetry.

``__all__`` is the public API; everything else may change without notice.
"""

from otel_aimon.alerts.events import AlertEvent
from otel_aimon.api import (
    force_flush,
    inference,
    instrument,
    instrument_module,
    monitor,
    monitor_jax,
    on_alert,
    uninstrument,
)
from otel_aimon.config import Settings
from otel_aimon.version import __version__

__all__ = [
    "AlertEvent",
    "Settings",
    "__version__",
    "force_flush",
    "inference",
    "instrument",
    "instrument_module",
    "monitor",
    "monitor_jax",
    "on_alert",
    "uninstrument",
]
