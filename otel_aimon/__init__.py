"""Watch AI models serve inference: spans, metrics, alerts and hints over OpenTelemetry.

``__all__`` is the public API; everything else may change without notice.
"""

from otel_aimon.alerts.alert_event import AlertEvent
from otel_aimon.api import (
    force_flush,
    hints,
    inference,
    instrument,
    instrument_module,
    limiter,
    monitor,
    monitor_jax,
    on_alert,
    uninstrument,
)
from otel_aimon.config import Settings
from otel_aimon.hinting.errors import LimitExceededError
from otel_aimon.hinting.model_hints import ModelHints
from otel_aimon.version import __version__

__all__ = [
    "AlertEvent",
    "LimitExceededError",
    "ModelHints",
    "Settings",
    "__version__",
    "force_flush",
    "hints",
    "inference",
    "instrument",
    "instrument_module",
    "limiter",
    "monitor",
    "monitor_jax",
    "on_alert",
    "uninstrument",
]
