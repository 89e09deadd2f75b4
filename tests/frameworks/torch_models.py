"""Small torch modules for the tests; importable, so that they pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Tiny(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Parent(nn.Module):
    """Holds another module."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.child(x) * 2


class Failing(nn.Module):
    """Raises in its forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("the input, which is private")


class SaysItself(Tiny):
    """Says itself what goes into its pickle."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class Own(Tiny):
    """Overrides the call."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append("call")
        return super().__call__(*args, **kwargs)


def forward(model: str, **changes: Any) -> dict[str, Any]:
    """The request span of a root."""
    return {
        "name": f"forward {model}",
        "kind": "INTERNAL",
        "parent": None,
        "attributes": {
            "aimon.framework": "torch",
            "aimon.operation": "forward",
            "aimon.model.name": model,
            "aimon.batch.size": 2,
            "aimon.device": "cpu",
        },
        "status": "UNSET",
        "events": [],
        **changes,
    }
