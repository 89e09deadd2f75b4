"""Whom a Triton client asks, from the address that it is given: ``host:port`` and what else gRPC takes."""

from __future__ import annotations

from urllib.parse import urlsplit

from otel_aimon.instrumentation.client import Server

FRAMEWORK = "tritonclient"

_SCHEMES = ("dns:", "ipv4:", "ipv6:")
"""Of targets of gRPC that name one host. Others, such as a socket's path, say nothing of one."""


def server_of(url: str, *, https: bool | None = None) -> Server:
    """The server behind an address.

    Args:
        url: What the client is given; its path is not read.
        https: For addresses of HTTP: whether the port, where there is none, is that of HTTPS.
    """
    target = url
    scheme = next((each for each in _SCHEMES if target.startswith(each)), "")
    # gRPC may be told the name server before the host: dns://authority/host.
    target = target[len(scheme) :].rpartition("/")[2] if scheme else target
    if "," in target or target.partition(":")[0] in {"unix", "unix-abstract", "vsock", "xds"}:
        return Server(FRAMEWORK)
    try:
        parts = urlsplit(f"//{target}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return Server(FRAMEWORK)
    if port is None and https is not None:
        port = 443 if https else 80
    return Server(FRAMEWORK, host, port) if host else Server(FRAMEWORK)
