"""The arguments of a wrapped call, which its caller passes by position or by name."""

from __future__ import annotations

from typing import Any


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument of a call; None where it is not given.

    Args:
        args: Those by position, ``self`` among them.
        kwargs: Those by name.
        position: Where it is among the former.
        name: What it is called.
    """
    return args[position] if len(args) > position else kwargs.get(name)
