"""One value that cannot be read does not cost the others of its source."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from otel_aimon.resources.source import notices

if TYPE_CHECKING:
    from collections.abc import Callable


def attempt(what: str, read: Callable[..., Any] | None, *args: Any) -> Any:
    """Call ``read``; None where the platform has no such function, or where it fails.

    Args:
        what: What is read, in words; a failure is logged once under this name.
        read: Of a library, whatever it raises.
        args: For it.
    """
    if read is None:
        return None
    try:
        return read(*args)
    except Exception as error:
        notices.say(
            what,
            logging.INFO,
            "otel-aimon cannot read %s (%s: %s); its metrics are absent.",
            what,
            type(error).__name__,
            str(error)[:200],
        )
        return None
