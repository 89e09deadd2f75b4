"""Which AMD GPUs this process may use, and under which names its frameworks know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def hip_order(
    hip_ids: Sequence[int | None],
    hip_uuids: Sequence[str | None],
    environment: Mapping[str, str],
) -> list[int] | None:
    """The GPUs that HIP shows to this process, in HIP's order: the first is ``cuda:0`` to PyTorch.

    ROCr applies ``ROCR_VISIBLE_DEVICES`` first, where even the empty list is one; HIP then counts
    what is left, for ``HIP_VISIBLE_DEVICES`` or else ``CUDA_VISIBLE_DEVICES``. An entry that names no
    GPU ends its list.

    Args:
        hip_ids: HIP's number of each GPU when nothing is hidden.
        hip_uuids: The UUID of each GPU as HIP writes it.
        environment: Of the process.

    Returns:
        Positions in ``hip_ids``; None when HIP's numbers are not known, or not of all its GPUs.
    """
    if sorted(number for number in hip_ids if number is not None) != list(range(len(hip_ids))):
        return None
    order = sorted(range(len(hip_ids)), key=lambda position: hip_ids[position] or 0)
    by_rocr = environment.get("ROCR_VISIBLE_DEVICES")
    if by_rocr is not None:
        order = _chosen(order, hip_uuids, by_rocr)
    by_hip = environment.get("HIP_VISIBLE_DEVICES") or environment.get("CUDA_VISIBLE_DEVICES")
    if by_hip:
        order = _chosen(order, hip_uuids, by_hip)
    return order


def _chosen(order: list[int], hip_uuids: Sequence[str | None], entries: str) -> list[int]:
    by_uuid = {(hip_uuids[position] or "").lower(): position for position in order}
    chosen: list[int] = []
    for entry in entries.split(","):
        word = entry.strip().lower()
        if word.isdecimal() and int(word) < len(order):
            position = order[int(word)]
        elif word.startswith("gpu-") and word in by_uuid:
            position = by_uuid[word]
        else:
            break
        if position in chosen:
            break
        chosen.append(position)
    return chosen
