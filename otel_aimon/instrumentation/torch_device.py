"""Where a PyTorch module is, asked often: which parameter is its first one is found once."""

from __future__ import annotations

import weakref
from typing import Any

from otel_aimon.instrumentation.known import Known

_first_parameters: Known[weakref.ref[Any]] = Known()
_names: dict[Any, str] = {}


def module_device(module: Any) -> str | None:
    """The device of a module's first parameter, such as ``cpu`` or ``cuda:0``.

    Modules move, and parameters are replaced: only which one is the first is remembered, for as long
    as it lives.

    Args:
        module: A ``torch.nn.Module``.

    Returns:
        None without parameters, and where they are brought in only as they are needed.
    """
    known = _first_parameters.of(module)
    parameter = None if known is None else known()
    if parameter is None:
        parameter = next(module.parameters(), None)
        if parameter is None:
            return None
        _first_parameters.learn(module, weakref.ref(parameter))
    device = parameter.device
    return None if device.type == "meta" else device_name(device)


def device_name(device: Any) -> str:
    """``cpu``, ``cuda:0``: what a ``torch.device`` is called."""
    name = _names.get(device)
    if name is None:
        name = _names[device] = str(device)
    return name
