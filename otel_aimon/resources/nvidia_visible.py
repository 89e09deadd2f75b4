"""Which NVIDIA GPUs CUDA shows to this process, and in which order: the first is ``cuda:0``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_aimon.resources.snapshot import Device

_VARIABLE, _ORDER_VARIABLE = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
_PREFIXES = ("GPU-", "MIG-")
_LEADING_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True)
class Shown:
    """What CUDA shows.

    Attributes:
        visible: ``hw.id`` of what this process may use; None when that cannot be told, so that it may be all.
        ordinals: CUDA's numbers by ``hw.id``, as far as they are known.
    """

    visible: frozenset[str] | None
    ordinals: Mapping[str, int]


def shown_by_environment(devices: Sequence[Device], environment: Mapping[str, str]) -> Shown:
    """What ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` leave.

    Args:
        devices: All, in the order of the PCI bus; MIG instances after the GPU whose part they are.
        environment: Of the process.
    """
    entries = environment.get(_VARIABLE)
    if entries is None:
        shown = Shown(None, _numbered(devices, environment) or {})
    elif entries.lstrip().startswith(_PREFIXES):
        shown = _by_uuid(devices, entries)
    else:
        shown = _by_number(devices, entries, environment)
    return _with_instances(devices, shown)


def _numbered(devices: Sequence[Device], environment: Mapping[str, str]) -> dict[str, int] | None:
    """CUDA's numbers of the GPUs when none is hidden; None when they are not known."""
    gpus = [device for device in devices if device.parent is None]
    # By default the fastest is the first; equal ones are in the order of the bus.
    models = {gpu.model for gpu in gpus}
    alike = len(gpus) == 1 or (len(models) == 1 and None not in models)
    if environment.get(_ORDER_VARIABLE) != "PCI_BUS_ID" and not alike:
        return None
    return {gpu.id: number for number, gpu in enumerate(gpus)}


def _by_uuid(devices: Sequence[Device], entries: str) -> Shown:
    found: list[str] = []
    prefix = entries.lstrip()[: len(_PREFIXES[0])]
    for entry in (each.strip() for each in entries.split(",")):
        matching = [device.id for device in devices if device.id.startswith(entry)]
        if not entry.startswith(prefix) or len(matching) != 1:
            break
        found.append(matching[0])
    return _listed(found)


def _by_number(devices: Sequence[Device], entries: str, environment: Mapping[str, str]) -> Shown:
    numbers: list[int] = []
    count = sum(device.parent is None for device in devices)
    for entry in entries.split(","):
        leading = _LEADING_INTEGER.match(entry.strip())
        number = int(leading.group()) if leading else -1
        if not 0 <= number < count:
            break
        numbers.append(number)
    order = _numbered(devices, environment)
    if order is None and numbers:
        return Shown(None, {})
    by_number = {number: id_ for id_, number in (order or {}).items()}
    return _listed([by_number[number] for number in numbers])


def _listed(found: list[str]) -> Shown:
    if len(set(found)) < len(found):
        # CUDA shows nothing then.
        found = []
    return Shown(frozenset(found), {id_: number for number, id_ in enumerate(found)})


def _with_instances(devices: Sequence[Device], shown: Shown) -> Shown:
    """A GPU and its MIG instances go together, and CUDA shows one instance to a process, whatever is listed."""
    children: dict[str, list[str]] = {}
    for device in devices:
        if device.parent is not None:
            children.setdefault(device.parent, []).append(device.id)
    visible = shown.visible
    if visible is not None:
        parents = {parent for parent, ids in children.items() if visible.intersection(ids)}
        instances = {id_ for parent, ids in children.items() if parent in visible for id_ in ids}
        visible = visible | parents | instances
    if not children:
        return Shown(visible, shown.ordinals)
    return Shown(visible, _ordinals_with_instances(children, shown))


def _ordinals_with_instances(children: dict[str, list[str]], shown: Shown) -> dict[str, int]:
    instances = [id_ for ids in children.values() for id_ in ids]
    listed = sorted((number, id_) for id_, number in shown.ordinals.items())
    reached = [id_ for _, id_ in listed if id_ in instances or id_ in children]
    if shown.visible is None and not listed:
        reached = list(children)
    if not reached:
        return dict(shown.ordinals)
    # Which one CUDA takes of several, it does not say.
    candidates = [reached[0]] if reached[0] in instances else [i for id_ in reached for i in children[id_]]
    return {candidates[0]: 0} if len(candidates) == 1 else {}


def shown_by_torch(devices: Sequence[Device]) -> Shown | None:
    """What PyTorch found, where the application has imported it and it has initialised CUDA already.

    Args:
        devices: All.

    Returns:
        None when PyTorch does not know, or when what it knows cannot be matched.
    """
    torch: Any = sys.modules.get("torch")
    try:
        if torch is None or torch.version.cuda is None or not torch.cuda.is_initialized():
            return None
        uuids = [
            str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())
        ]
    except Exception:
        # In the midst of its import, an older version, a broken device.
        return None
    by_uuid = {device.id: device for device in devices}
    divided = {device.parent for device in devices if device.parent is not None}
    found: list[str] = []
    for uuid in uuids:
        names = [name for name in (uuid, *(prefix + uuid for prefix in _PREFIXES)) if name in by_uuid]
        if len(names) != 1 or names[0] in divided:
            return None
        found.append(names[0])
    shown = _listed(found)
    parents = {by_uuid[id_].parent for id_ in found} - {None}
    return Shown((shown.visible or frozenset()) | {str(parent) for parent in parents}, shown.ordinals)
