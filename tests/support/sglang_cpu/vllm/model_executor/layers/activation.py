"""The gated activations of text models, in torch."""

from __future__ import annotations

from typing import Any

import torch


class SiluAndMul(torch.nn.Module):
    """One half, through SiLU, times the other half."""

    def forward(self, x: Any) -> Any:
        """Activate."""
        gate, up = x.chunk(2, -1)
        return torch.nn.functional.silu(gate) * up


class GeluAndMul(torch.nn.Module):
    """One half, through GELU, times the other half."""

    def forward(self, x: Any) -> Any:
        """Activate."""
        gate, up = x.chunk(2, -1)
        return torch.nn.functional.gelu(gate) * up
