"""The one kernel, in torch."""

from __future__ import annotations

from typing import Any

import torch


def rotary_embedding(
    positions: Any, query: Any, key: Any, head_size: int, cos_sin_cache: Any, is_neox: bool = True
) -> None:
    """Turn queries and keys by their positions, in place."""
    cos, sin = (part.unsqueeze(1).to(query.dtype) for part in cos_sin_cache[positions].chunk(2, -1))
    for turned in (query, key):
        heads = turned.view(turned.shape[0], -1, head_size)
        part = heads[..., : cos.shape[-1] * 2]
        left, right = part.chunk(2, -1)
        part[...] = torch.cat((left * cos - right * sin, right * cos + left * sin), -1)
