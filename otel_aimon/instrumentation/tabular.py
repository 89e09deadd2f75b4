"""What models of tables share: what an input tells at no cost, and how their methods become requests."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_aimon.core.call import Begin, Finish
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

    Rows = Callable[[Any], int | None]
    """Tells the items in an input, where that is known at no cost."""

_ON_HOST = frozenset({"numpy", "scipy", "pandas", "polars"})
_WITH_SHAPE = _ON_HOST | {"torch", "cupy", "jax", "jaxlib"}
"""Packages whose containers tell their shape at no cost."""


def package(cls: type) -> str:
    """The top-level package of a class."""
    return cls.__module__.partition(".")[0]


def rows(data: Any) -> int | None:
    """Items in the input, where that is known at no cost."""
    cls = type(data)
    if cls is list or cls is tuple:
        return len(data)
    if package(cls) not in _WITH_SHAPE:
        return None
    shape = getattr(data, "shape", None)
    first = shape[0] if shape else None
    return first if type(first) is int else None


def is_on_host(data: Any) -> bool:
    """Whether the input is known to lie in the host's memory; no input lies nowhere else."""
    cls = type(data)
    return data is None or cls is list or cls is tuple or package(cls) in _ON_HOST


def classes_of(module: Any, base: type) -> list[type]:
    """The classes that ``module`` defines on top of ``base``, and ``base``."""
    found = (value for value in vars(module).values() if isinstance(value, type))
    return [
        cls for cls in dict.fromkeys(found) if issubclass(cls, base) and cls.__module__ == module.__name__
    ]


def begin_request(
    recorder: Recorder,
    framework: str,
    operation: str,
    parameters: tuple[str, ...],
    *,
    other_outputs: tuple[str, ...] = (),
    count: Rows = rows,
    device: str | None = None,
) -> Begin:
    """What starts the request of a method whose first argument after ``self`` is its input.

    The model is called after its class.

    Args:
        recorder: Takes the requests.
        framework: Name in the registry.
        operation: What the method does.
        parameters: Names that the input has, in several classes.
        other_outputs: Keyword arguments that ask for something else, such as the contributions of
            features: operations of their own, as they may take far longer.
        count: Counts the items of the input.
        device: Where every model of the framework runs, if that is certain.
    """

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        if not args:
            return None
        output = next((output for output in other_outputs if kwargs.get(output) is True), operation)
        inference = recorder.start(recorder.series(framework, output, type(args[0]).__name__), Layer.MODEL)
        if inference is not None:
            named = (kwargs[name] for name in parameters if name in kwargs)
            inference.batch_size = guarded(count, args[1] if len(args) > 1 else next(named, None))
            inference.device = device
        return inference

    return begin


def hook_methods(
    hooks: Hooks,
    classes: Iterable[type],
    requests: Mapping[str, Begin],
    silent: Iterable[str],
    finish: Finish | None = None,
) -> None:
    """Wrap the methods in the bodies of ``classes``: those that serve, and those that train or grade.

    Args:
        hooks: Of the framework.
        classes: Where the methods are looked for.
        requests: Name of a method that serves → what starts its request.
        silent: Names of methods that train or grade.
        finish: Reads the result of those that serve.
    """
    from otel_aimon.instrumentation.sklearn import hand_over

    owners, silent = list(classes), tuple(silent)
    hand_over(owners)
    for owner in owners:
        body = vars(owner)
        for name, begin in requests.items():
            if name in body:
                hooks.wrap(owner, name, functools.partial(observed, begin=begin, finish=finish))
        hook_silent(hooks, owner, (name for name in silent if name in body))


def hook_silent(hooks: Hooks, owner: Any, names: Iterable[str]) -> None:
    """Wrap functions of ``owner`` so that nothing inside them is a request."""
    for name in names:
        hooks.wrap(owner, name, functools.partial(quiet, recorder=hooks.recorder))


def hook_silent_functions(hooks: Hooks, modules: Sequence[Any], names: Iterable[str]) -> None:
    """Replace functions wherever a package holds them, each by one and the same, under which nothing is a request.

    Args:
        hooks: Of the framework.
        modules: The module that defines the functions, and others that have taken them from there.
        names: The functions.
    """
    for name in names:
        original = vars(modules[0]).get(name)
        if original is None:
            hooks.leave_out(f"{modules[0].__name__}.{name}", "it is not there")
            continue
        silent = quiet(original, hooks.recorder)
        for module in modules:
            if vars(module).get(name) is original:
                hooks.replace(module, name, silent)
