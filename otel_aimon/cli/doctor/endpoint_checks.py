"""What is wrong with the endpoints of exporters: the mistakes that cost most nights."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from otel_aimon.cli.doctor.endpoints import GRPC, HTTP, PORTS
from otel_aimon.cli.doctor.exporters import PROTOCOLS, SIGNALS, Target
from otel_aimon.cli.doctor.findings import Problem, Seen, Severity, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_aimon.cli.doctor.endpoints import Address

Judgement = tuple[Severity, str, str]
"""What is wrong with a target: severity, what, remedy."""

_Key = TypeVar("_Key")

_PATHS = tuple(f"/v1/{signal}" for signal in SIGNALS)


def endpoints_can_be_reached(seen: Seen) -> Iterator[Problem]:
    """Exporters retry in the background and then drop."""
    unreached = (target for target in seen.exporters.targets if target.reachable is False)
    for (host, port, why), signals in grouped(unreached, _what_failed):
        remedy = "Start the Collector or backend, or set OTEL_EXPORTER_OTLP_ENDPOINT to where it is."
        if _is_local(host):
            remedy += " In a container, localhost is the container itself."
        yield Problem("error", f"{host}:{port} ({signals}) cannot be reached: {why}.", remedy)


def protocols_suit_the_ports(seen: Seen) -> Iterator[Problem]:
    """OTLP over gRPC sent to the port of HTTP, and the other way round, fails without a clear word."""

    def judge(target: Target, found: Address) -> Iterator[Judgement]:
        other = HTTP if target.protocol == GRPC else GRPC
        if found.port == PORTS[other]:
            yield (
                "warning",
                f"{_place(found)} has the usual port of OTLP over {other}, and {target.protocol} is spoken",
                f"Set OTEL_EXPORTER_OTLP_PROTOCOL={other}, or port {PORTS[target.protocol or GRPC]}.",
            )

    yield from judged(seen, judge)


def endpoints_are_well_formed(seen: Seen) -> Iterator[Problem]:
    """Schemes and ports that the exporter reads otherwise than they were meant."""

    def judge(target: Target, found: Address) -> Iterator[Judgement]:
        if target.protocol == HTTP and found.scheme not in {"http", "https"}:
            what = f"{_place(found)} does not begin with http:// or https://, so nothing can be sent"
            yield "error", what, "Put http:// or https:// before it."
        elif target.protocol == HTTP and not found.host:
            yield "error", f"{target.endpoint} names no host and port", "Write http://host:4318."
        elif target.protocol == GRPC and not found.scheme and target.secure:
            what = f"{_place(found)} has no scheme, so TLS is used"
            yield "warning", what, "Write http:// before it if the receiver has no TLS, https:// if it has."
        elif target.protocol == GRPC and found.scheme == "http" and found.port == 443:
            what = f"{target.endpoint} names no port, and gRPC takes 443"
            yield "warning", what, f"Write the port, usually {PORTS[GRPC]}."

    yield from judged(seen, judge)


def paths_are_those_of_otlp(seen: Seen) -> Iterator[Problem]:
    """Over HTTP, the general endpoint gets the path of each signal appended; that of a signal does not."""

    def judge(target: Target, found: Address) -> Iterator[Judgement]:
        path, wanted = found.path, f"/v1/{target.signal}"
        if target.protocol == GRPC and path:
            what = f"the path {path} of {target.endpoint} is ignored by gRPC"
            remedy = f"Remove it, or set OTEL_EXPORTER_OTLP_PROTOCOL={HTTP} with port {PORTS[HTTP]}."
            yield "warning", what, remedy
        elif target.protocol == HTTP and (given := path.removesuffix(wanted)).endswith(_PATHS):
            what = f"{target.endpoint_from} ends in {given[given.index('/v1/') :]}, and the path of each signal is appended to it"
            yield "warning", what, f"Leave the path out of {target.endpoint_from}."
        elif target.protocol == HTTP and not path.endswith(wanted):
            what = f"{target.endpoint} does not end in {wanted}, and is used as it is"
            yield "warning", what, f"Append {wanted}, unless the backend has a path of its own."

    yield from judged(seen, judge)


def certificates_can_be_read(seen: Seen) -> Iterator[Problem]:
    """Without its certificates an exporter of TLS cannot be made."""

    def judge(target: Target, _found: Address) -> Iterator[Judgement]:
        file = target.certificate
        if file and target.secure and not (Path(file).is_file() and os.access(file, os.R_OK)):
            yield "error", f"the certificate {file} cannot be read", "Correct OTEL_EXPORTER_OTLP_CERTIFICATE."

    yield from judged(seen, judge)


def proxies_are_meant(seen: Seen) -> Iterator[Problem]:
    """Exporters heed the variables of proxies; one on the way to a local Collector swallows everything."""
    proxies = urllib.request.getproxies_environment()
    said: set[str] = set()
    for target in _otlp(seen):
        found = target.address
        if found is None or not found.host or found.host in said:
            continue
        # gRPC asks for the proxy of HTTPS first, whatever it speaks.
        kinds = ("grpc", "https", "http") if target.protocol == GRPC else (found.scheme, "all")
        proxy = next((proxies[kind] for kind in kinds if proxies.get(kind)), None)
        if proxy is None or _bypassed(found.host):
            continue
        said.add(found.host)
        yield Problem(
            "warning" if _is_local(found.host) else "info",
            f"Exports to {found.host} go through the proxy {masked(proxy)}.",
            f"If that is not meant, add {found.host} to NO_PROXY.",
        )


def judged(seen: Seen, judge: Callable[[Target, Address], Iterator[Judgement]]) -> Iterator[Problem]:
    """What is wrong with several signals in the same way is one problem.

    Args:
        seen: With the exporters.
        judge: Looks at one exporter of OTLP and its address.
    """
    found: dict[Judgement, list[str]] = {}
    for target in _otlp(seen):
        if target.address is not None:
            for judgement in judge(target, target.address):
                found.setdefault(judgement, []).append(target.signal)
    for (severity, what, remedy), signals in found.items():
        yield Problem(severity, f"{', '.join(signals)}: {what}.", remedy)


def _place(found: Address) -> str:
    """An endpoint without its path, which differs from signal to signal."""
    scheme = f"{found.scheme}://" if found.scheme else ""
    return f"{scheme}{found.host}:{found.port}"


def _what_failed(target: Target) -> tuple[str, int | None, str | None]:
    where = target.address
    return ("", None, None) if where is None else (where.host, where.port, target.why_not)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _otlp(seen: Seen) -> list[Target]:
    return [target for target in seen.exporters.targets if target.exporter in PROTOCOLS and target.installed]


def grouped(targets: Iterable[Target], key: Callable[[Target], _Key]) -> list[tuple[_Key, str]]:
    """Signals by what their targets have in common: one problem for all of them.

    Args:
        targets: Exporters.
        key: What they have in common.
    """
    groups: dict[_Key, list[str]] = {}
    for target in targets:
        groups.setdefault(key(target), []).append(target.signal)
    return [(what, ", ".join(signals)) for what, signals in groups.items()]


def _bypassed(host: str) -> bool:
    return bool(urllib.request.proxy_bypass_environment(host))  # type: ignore[attr-defined]


CHECKS = (
    endpoints_can_be_reached,
    protocols_suit_the_ports,
    endpoints_are_well_formed,
    paths_are_those_of_otlp,
    certificates_can_be_read,
    proxies_are_meant,
)
