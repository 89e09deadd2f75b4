"""Addresses of exporters: what they say, and whether anything listens there."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

GRPC, HTTP = "grpc", "http/protobuf"
PORTS = {GRPC: 4317, HTTP: 4318}
"""Protocol → its usual port."""

_GRPC_NAMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")
"""Schemes of gRPC's own; what they name is not tried."""

_SECONDS = 1.0
"""To look up a name and connect, all addresses together."""


@dataclass(frozen=True)
class Address:
    """What an endpoint says.

    Attributes:
        scheme: ``http``, ``https``, or empty.
        host: Name or address; empty when it names none.
        port: Given, or what the exporter takes instead; None when it cannot be read.
        path: With its leading slash; empty when there is none.
        credentials: Whether it holds a user or a password.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    credentials: bool


def address(endpoint: str, protocol: str) -> Address:
    """Read an endpoint as its exporter does.

    Args:
        endpoint: As it is set.
        protocol: ``grpc`` or ``http/protobuf``.
    """
    if endpoint.startswith(_GRPC_NAMES):
        return Address(endpoint.partition(":")[0], "", None, "", credentials=False)
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    try:
        port = parts.port
    except ValueError:
        return Address(parts.scheme, "", None, parts.path, "@" in parts.netloc)
    usual = 80 if protocol == HTTP and parts.scheme == "http" else 443
    return Address(
        parts.scheme,
        parts.hostname or "",
        usual if port is None else port,
        "" if parts.path == "/" else parts.path,
        "@" in parts.netloc,
    )


def reach(targets: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str | None]:
    """Connect to each target, all at once, and close at once; nothing is sent.

    Args:
        targets: Hosts and ports.

    Returns:
        Why each cannot be reached; None where something accepted the connection.
    """
    found: dict[tuple[str, int], str | None] = {}

    def connect(target: tuple[str, int]) -> None:
        try:
            socket.create_connection(target, _SECONDS).close()
            found[target] = None
        except OSError as error:
            found[target] = _reason(error)
        except (ValueError, OverflowError) as error:
            found[target] = f"not an address ({type(error).__name__})"

    # A look-up of a name has no timeout of its own: its thread is left to the end of the process.
    threads = {
        target: threading.Thread(target=connect, args=(target,), name="doctor-connect", daemon=True)
        for target in dict.fromkeys(targets)
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + _SECONDS + 0.2
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    return {target: found.get(target, f"no answer within {_SECONDS:.0f} s") for target in threads}


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:.0f} s"
    if error.errno == errno.ECONNREFUSED:
        return "connection refused: nothing listens there"
    return os.strerror(error.errno) if error.errno else type(error).__name__
