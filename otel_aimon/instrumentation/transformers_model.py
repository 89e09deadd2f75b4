"""What a Transformers model is called, and where it runs."""

from __future__ import annotations

from typing import Any

from otel_aimon.instrumentation.torch_device import device_name as torch_device_name
from otel_aimon.instrumentation.torch_device import module_device

FRAMEWORK = "transformers"
"""Value of ``aimon.framework``."""


def model_name(model: Any) -> str:
    """The name or path that the model was loaded from, else its class.

    Args:
        model: Any model with a ``config``.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return name if isinstance(name, str) and name else type(model).__name__


def device_name(holder: Any) -> str | None:
    """Where a model or a pipeline runs, such as ``cpu`` or ``cuda:0``.

    Args:
        holder: Anything with a ``device``; a model without parameters has none.
    """
    try:
        found = module_device(holder) if hasattr(holder, "parameters") else None
        # A pipeline knows where it is; so does a model whose first weights come only as they are needed.
        return found or torch_device_name(holder.device)
    except (AttributeError, StopIteration):
        return None
