"""What was learned survives a restart, in a file that the user names.

The file is replaced as a whole, so that a crash leaves the old one or the new one. What does not fit is
ignored with one warning, and learned anew.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_aimon.analysis.degradation import Degradation

logger = logging.getLogger("otel_aimon")

VERSION = 1
LONGEST_ABSENCE = 7 * 86_400.0
"""What was usual a week ago need not be usual any more."""

_MOST_BYTES = 64 * 1024 * 1024


def save(path: Path, degradation: Degradation, time: float) -> None:
    """Write what was learned.

    Args:
        path: The file.
        degradation: Has learned.
        time: Seconds since 1970.
    """
    document = {"version": VERSION, "saved_at": time, "degradation": degradation.state(time)}
    fresh = Path(f"{path}.{os.getpid()}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(document, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            fresh.unlink()
        logger.warning(
            "otel-aimon: what was learned cannot be written to %s (%s); a restart learns anew. "
            "Check that the directory exists and can be written to.",
            path,
            getattr(error, "strerror", error),
        )


def load(path: Path, degradation: Degradation, time: float) -> bool:
    """Go on from what was learned, if there is such a file and it fits.

    Args:
        path: The file.
        degradation: Goes on from it.
        time: Seconds since 1970.

    Returns:
        Whether it does.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"it has version {document['version']!r}, and this is version {VERSION}")
        if not 0.0 <= time - document["saved_at"] <= LONGEST_ABSENCE:
            raise ValueError("it is older than a week, or from the future")
        degradation.restore(document["degradation"], time)
    except FileNotFoundError:
        return False
    except Exception as error:  # A damaged file can fail in any way, and none of them may harm.
        logger.warning(
            "otel-aimon: what was learned in %s is not used (%s: %s); it is learned anew. "
            "Remove the file if this was not meant.",
            path,
            type(error).__name__,
            str(error)[:200],
        )
        return False
    return True
