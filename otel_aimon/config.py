"""One frozen, typed ``Settings``: explicit arguments > declarative file > ``OTEL_AIMON_*`` > defaults.

A wrong value or an unknown key never stops the service: one warning names it, where it came from,
what is accepted, and what is used instead.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger("otel_aimon")

ENV_PREFIX = "OTEL_AIMON_"
FILE_SECTION = "aimon"
"""Key of our section in a declarative file, under ``instrumentation/development: python:``."""

PROCESS, CONTAINER, HOST, GPU = "process", "container", "host", "gpu"
RESOURCES = (PROCESS, CONTAINER, HOST, GPU)
"""What the setting ``resources`` may name."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_FOREIGN_ENV = frozenset({"OTEL_AIMON_TEST_RERAISE"})


@dataclass(frozen=True)
class _Accepts:
    """How a setting is read.

    Attributes:
        what: What is accepted, in words for the warning and the docs.
        parse: Turns a raw value into the setting's; raises ValueError or TypeError when it cannot.
        about: What the setting does, for the docs.
    """

    what: str
    parse: Callable[[Any], Any]
    about: str


def _flag(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    text = str(raw).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _names(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, (list, tuple, set, frozenset)):
        raise TypeError
    if not all(isinstance(name, str) for name in raw):
        raise TypeError
    return tuple(name.strip() for name in raw if name.strip())


def _some_of(known: tuple[str, ...]) -> Callable[[Any], tuple[str, ...]]:
    def parse(raw: Any) -> tuple[str, ...]:
        names = _names(raw)
        if not set(names) <= {*known, "none"} or ("none" in names and len(names) > 1):
            raise ValueError
        return tuple(name for name in known if name in names)

    return parse


def _one_of(*known: str) -> Callable[[Any], str]:
    def parse(raw: Any) -> str:
        word = str(raw).strip().lower()
        if word not in known:
            raise ValueError(raw)
        return word

    return parse


def _path(raw: Any) -> str:
    if not isinstance(raw, (str, os.PathLike)):
        raise TypeError
    return os.fspath(raw)


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise TypeError
    return raw


def _between(low: float, high: float, kind: type[float]) -> Callable[[Any], Any]:
    def parse(raw: Any) -> Any:
        if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
            raise TypeError
        value = kind(raw)
        if not low <= value <= high or (isinstance(raw, float) and value != raw):
            raise ValueError
        return value

    return parse


def _setting(default: Any, what: str, parse: Callable[[Any], Any], about: str) -> Any:
    return field(default=default, metadata={"accepts": _Accepts(what, parse, about)})


@dataclass(frozen=True)
class Settings:
    """What a user can set. Each field is ``OTEL_AIMON_<NAME>`` in the environment.

    Attributes:
        enabled: False leaves the process untouched.
        frameworks: Frameworks to instrument, by registry name; empty for all.
        torch_roots: Classes whose instances are requests when called with gradients off, as
            ``package.module.Class``, besides those on which the application calls ``eval()``.
        stages: Nested layers become child spans and ``aimon.inference.stage.duration``.
        max_models: Distinct model names before ``other``.
        queue_size: Observations that may wait; beyond it a caller drains a batch itself.
        interval: Seconds between two drains of the pipeline thread, which ends spans and makes metric points.
        window: Seconds that ``aimon.inference.throughput`` and its like look back.
        resources: What is sampled besides inference.
        sample_interval: Seconds between two samplings of resources.
        unique_memory: Sample USS too, which costs milliseconds in a process with many mappings.
        event_loop_lag: Measure by how much asyncio's event loops are late.
        alerts: Judge what happens, and tell by events.
        alert_rules: YAML file with rules and objectives of the user's.
        slos: Objectives in short, such as ``error=99.9%, ttft=99%<500ms``.
        alert_tick: Seconds between two judgements of what is usual.
        alert_learning: Seconds in which it is learned what is usual, before anything is unusual.
        alert_state: File in which it is kept what was learned; empty for none.
        hints: Tell how many requests at once a model can serve, which batch size pays, and how many replicas.
        limiter: What ``otel_aimon.limiter()`` does: nothing, count what it would turn away, or turn it away.
        lock_directory: Where the processes of a host elect who exports its metrics; empty for
            ``/tmp/otel-aimon``.
    """

    enabled: bool = _setting(True, "true or false", _flag, "`false` leaves the process untouched.")
    frameworks: tuple[str, ...] = _setting(
        (), "a list of framework names", _names, "Frameworks to instrument; empty for all."
    )
    torch_roots: tuple[str, ...] = _setting(
        (),
        "a list of classes such as package.module.Class",
        _names,
        "Torch module classes whose instances are requests, besides those on which `eval()` is called.",
    )
    stages: bool = _setting(
        True,
        "true or false",
        _flag,
        "Nested layers become child spans and `aimon.inference.stage.duration`.",
    )
    max_models: int = _setting(
        100,
        "a whole number from 1 to 10000",
        _between(1, 10_000, int),
        "Distinct model names before `other`.",
    )
    queue_size: int = _setting(
        8192,
        "a whole number from 64 to 1000000",
        _between(64, 1_000_000, int),
        "Observations that may wait; beyond it a caller drains a batch itself.",
    )
    interval: float = _setting(
        0.25,
        "seconds from 0.01 to 60",
        _between(0.01, 60.0, float),
        "Seconds between two drains of the pipeline thread, which ends spans and makes metric points.",
    )
    window: float = _setting(
        60.0,
        "seconds from 5 to 3600",
        _between(5.0, 3600.0, float),
        "Seconds that throughput, error ratio and latency quantiles look back.",
    )
    resources: tuple[str, ...] = _setting(
        RESOURCES,
        f"a list of {', '.join(RESOURCES)}, or none",
        _some_of(RESOURCES),
        "What is sampled besides inference; `none` for nothing.",
    )
    sample_interval: float = _setting(
        5.0,
        "seconds from 0.1 to 300",
        _between(0.1, 300.0, float),
        "Seconds between two samplings of resources.",
    )
    unique_memory: bool = _setting(
        False,
        "true or false",
        _flag,
        "Sample `aimon.process.memory.unique` (USS) too, which costs milliseconds in a process with many mappings.",
    )
    event_loop_lag: bool = _setting(
        False,
        "true or false",
        _flag,
        "Measure `aimon.process.event_loop.lag` in the event loops in which inferences run.",
    )
    alerts: bool = _setting(
        True, "true or false", _flag, "Judge what happens by rules, and tell by `aimon.alert` events."
    )
    alert_rules: str = _setting(
        "", "the path of a YAML file", _path, "Rules and objectives of your own, and changes to the others."
    )
    slos: str = _setting(
        "",
        "objectives such as error=99.9%, ttft=99%<500ms",
        _text,
        "Objectives in short; they win over those of the file.",
    )
    alert_tick: float = _setting(
        10.0,
        "seconds from 0.1 to 60",
        _between(0.1, 60.0, float),
        "Seconds between two judgements of latency, errors and traffic.",
    )
    alert_learning: float = _setting(
        86_400.0,
        "seconds from 0 to 604800",
        _between(0.0, 604_800.0, float),
        "Seconds in which it is learned what is usual, before the rules on what is unusual say anything.",
    )
    alert_state: str = _setting(
        "",
        "the path of a file",
        _path,
        "File that keeps what was learned over a restart; one for each process.",
    )
    hints: bool = _setting(
        True,
        "true or false",
        _flag,
        "Tell how many requests at once a model can serve, which batch size pays, and how many replicas the load needs.",
    )
    limiter: str = _setting(
        "off",
        "off, dry_run or enforce",
        _one_of("off", "dry_run", "enforce"),
        "What `otel_aimon.limiter()` and the middleware do: nothing, count what they would turn away, or turn it away.",
    )
    lock_directory: str = _setting(
        "",
        "the path of a directory",
        _path,
        "Where the processes of a host elect who exports its metrics; empty for `/tmp/otel-aimon`.",
    )

    @classmethod
    def resolve(
        cls,
        arguments: Mapping[str, Any] | None = None,
        file: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Merge the sources, the first one that has an acceptable value wins.

        Args:
            arguments: What the program passed; a None value counts as not given.
            file: The ``aimon`` section of the declarative file.
            environ: Where ``OTEL_AIMON_*`` are read; the process's own by default.
        """
        environ = os.environ if environ is None else environ
        from_env = {
            key[len(ENV_PREFIX) :].lower(): value
            for key, value in environ.items()
            if key.startswith(ENV_PREFIX) and key not in _FOREIGN_ENV and value.strip()
        }
        from_file = {str(key): value for key, value in (file or {}).items() if value is not None}
        # The SDK passes what the file says as arguments too: that is still the file.
        given = {
            key: value
            for key, value in (arguments or {}).items()
            if value is not None and not (key in from_file and _same(value, from_file[key]))
        }
        sources: tuple[tuple[str, Mapping[str, Any]], ...] = (
            ("the arguments of instrument()", given),
            ("the declarative configuration file", from_file),
            ("the environment", from_env),
        )
        known = {spec.name: spec for spec in fields(cls)}
        for source, values in sources:
            for key in values:
                if key not in known:
                    _warn_unknown(_spelling(source, key), source, list(known))
        return cls(**{name: _first_acceptable(name, spec, sources) for name, spec in known.items()})


def _first_acceptable(name: str, spec: Any, sources: tuple[tuple[str, Mapping[str, Any]], ...]) -> Any:
    accepts: _Accepts = spec.metadata["accepts"]
    offered = [(source, values[name]) for source, values in sources if name in values]
    refused: list[tuple[str, Any]] = []
    value, used = spec.default, "the default"
    for source, raw in offered:
        try:
            value, used = accepts.parse(raw), source
            break
        except Exception:  # Whatever a value of the user's raises while it is read.
            refused.append((source, raw))
    for source, raw in refused:
        logger.warning(
            "otel-aimon: %s=%s from %s is not accepted (%s); using %r from %s.",
            _spelling(source, name),
            _shown(raw),
            source,
            accepts.what,
            value,
            used,
        )
    return value


def _shown(raw: Any) -> str:
    try:
        return repr(raw)[:80]
    except Exception:
        return f"<{type(raw).__name__}>"


def _same(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:
        return False


def _spelling(source: str, name: str) -> str:
    return ENV_PREFIX + name.upper() if source == "the environment" else name


def _warn_unknown(name: str, source: str, known: list[str]) -> None:
    spelled = [_spelling(source, key) for key in known]
    close = difflib.get_close_matches(name, spelled, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    logger.warning(
        "otel-aimon: unknown setting %.80s from %s is ignored; %saccepted are %s.",
        name,
        source,
        hint,
        ", ".join(spelled),
    )


def warn_unknown_options(entry_point: str, options: Iterable[str]) -> None:
    """Warn of options that a framework's section in a declarative file does not have."""
    for option in options:
        logger.warning(
            "otel-aimon: unknown option %.80s of %s in the declarative configuration file is ignored; "
            "accepted is enabled. Settings go to the section %s.",
            option,
            entry_point,
            FILE_SECTION,
        )


def declarative_sections(environ: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What ``OTEL_CONFIG_FILE`` says of Python instrumentations: name → options.

    ``opentelemetry-instrument`` loads every installed instrumentor after the file was applied, so
    ``enabled: false`` would be forgotten; reading the file again is how it is honoured.

    Returns:
        Empty when there is no file or it cannot be read; the SDK has said why by then.
    """
    path = (os.environ if environ is None else environ).get("OTEL_CONFIG_FILE")
    if not path:
        return {}
    try:
        modified = Path(path).stat().st_mtime_ns
    except OSError:
        modified = 0
    return _read_sections(path, modified)


def enabled_by_file(entry_point: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether the declarative file leaves an instrumentor enabled."""
    raw = declarative_sections(environ).get(entry_point, {}).get("enabled", True)
    try:
        return bool(_flag(raw))
    except ValueError:
        # The runtime's own is a setting like others, and is warned of there.
        if entry_point != FILE_SECTION:
            logger.warning(
                "otel-aimon: enabled=%s of %s in the declarative configuration file is not accepted "
                "(true or false); using True.",
                _shown(raw),
                entry_point,
            )
        return True


def _options(name: str, options: Any) -> dict[str, Any]:
    if options is None or isinstance(options, dict):
        return options or {}
    if name.startswith(FILE_SECTION):
        logger.warning(
            "otel-aimon: %s=%s from the declarative configuration file is not accepted (options by name); "
            "using the defaults.",
            name,
            _shown(options),
        )
    return {}


@functools.lru_cache(maxsize=1)
def _read_sections(path: str, _modified: int) -> dict[str, dict[str, Any]]:
    """Read the file once for all entry points, and again when it has changed."""
    try:
        from opentelemetry.configuration import load_config_file

        loaded: Any = load_config_file(path)
        instrumentation = getattr(loaded, "instrumentation_development", None)
        python = getattr(instrumentation, "python", None) or {}
        return {str(name): _options(str(name), options) for name, options in python.items()}
    except Exception as error:
        logger.warning(
            "otel-aimon: cannot read OTEL_CONFIG_FILE=%s (%s: %s); its settings are not used. "
            "Check the file, and that the package opentelemetry-configuration is installed.",
            path,
            type(error).__name__,
            str(error)[:200],
        )
        return {}
