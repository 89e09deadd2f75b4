"""Replaces attributes of a framework by wrappers, and puts every original back exactly."""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.config import Settings
    from otel_aimon.core.recorder import Recorder

logger = logging.getLogger("otel_aimon")


class _Replacement(NamedTuple):
    owner: Any
    name: str
    original: Any
    replacement: Any


class Hooks:
    """The hooks of one framework; handed to its hook functions.

    Args:
        framework: Name in the registry.
        recorder: Starts and takes the inferences.
        settings: Resolved settings.
    """

    def __init__(self, framework: str, recorder: Recorder, settings: Settings) -> None:
        self.framework = framework
        self.recorder = recorder
        self.settings = settings
        self._replacements: list[_Replacement] = []
        self._undo: list[Callable[[], None]] = []
        self._left_out: set[str] = set()

    def wrap(
        self,
        owner: Any,
        name: str,
        make: Callable[[Any], Any],
        parameters: tuple[str, ...] = (),
    ) -> bool:
        """Replace the function ``owner.name`` by ``make(function)``.

        Args:
            owner: A module, or the very class whose body defines the function.
            name: The attribute.
            make: Gets the plain function, returns the wrapper.
            parameters: Names that our wrapper reads; where the function lacks one, it is of a
                version that we do not know, and it is left alone.

        Returns:
            Whether it was replaced. What was not is logged once.
        """
        what = f"{getattr(owner, '__qualname__', getattr(owner, '__name__', owner))}.{name}"
        raw = vars(owner).get(name)
        if raw is None:
            self.leave_out(what, "it is not there")
            return False
        is_descriptor = isinstance(raw, (staticmethod, classmethod))
        function = raw.__func__ if is_descriptor else raw
        if not callable(function):
            self.leave_out(what, "it is not a function")
            return False
        missing = _missing_parameters(function, parameters)
        if missing:
            self.leave_out(what, f"it has no parameter {', '.join(missing)}")
            return False
        wrapper = make(function)
        self.replace(owner, name, type(raw)(wrapper) if is_descriptor else wrapper)
        return True

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Set ``owner.name``, which ``owner`` itself defines, and remember what it was."""
        original = vars(owner)[name]
        setattr(owner, name, replacement)
        self._replacements.append(_Replacement(owner, name, original, replacement))

    def override(self, owner: type, name: str, make: Callable[[Any], Any]) -> bool:
        """Give a class a method that it inherits, wrapped: its parents and their other children stay as they are.

        Args:
            owner: The class; where its own body defines the method, this is :meth:`wrap`.
            name: The method.
            make: Gets a plain function that calls the inherited method, returns the wrapper.

        Returns:
            Whether the class has it. What was not found is logged once.
        """
        if name in vars(owner):
            return self.wrap(owner, name, make)
        inherited = getattr(owner, name, None)
        if inherited is None:
            self.leave_out(f"{owner.__qualname__}.{name}", "it is not there")
            return False

        @functools.wraps(inherited)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Looked up at each call: others may replace the parent's method later.
            return getattr(super(owner, self), name)(*args, **kwargs)

        wrapper = make(call)
        setattr(owner, name, wrapper)
        self.on_restore(functools.partial(_take_away, owner, name, wrapper))
        return True

    def on_restore(self, undo: Callable[[], None]) -> None:
        """Call ``undo`` when the framework is uninstrumented, for what is not an attribute."""
        self._undo.append(undo)

    def leave_out(self, what: str, why: str) -> None:
        """Log once that a part of the framework stays uninstrumented."""
        if what not in self._left_out:
            self._left_out.add(what)
            logger.warning(
                "otel-aimon: %s stays without telemetry: %s in this version of %s. "
                "Everything else is instrumented.",
                what,
                why,
                self.framework,
            )

    def restore(self) -> None:
        """Put every original back, the latest first.

        An attribute that somebody else has replaced since is left to them; our wrapper inside
        theirs passes calls through.
        """
        undos: list[Callable[[], object]] = [
            *(functools.partial(_put_back, each) for each in self._replacements),
            *self._undo,
        ]
        self._undo.clear()
        self._replacements.clear()
        for undo in reversed(undos):
            try:
                undo()
            except Exception as error:  # noqa: PERF203
                swallow(error, f"the restoration of {self.framework}")


def _put_back(each: _Replacement) -> None:
    if vars(each.owner).get(each.name) is each.replacement:
        setattr(each.owner, each.name, each.original)


def _take_away(owner: type, name: str, wrapper: Any) -> None:
    if vars(owner).get(name) is wrapper:
        delattr(owner, name)


def _missing_parameters(function: Any, parameters: tuple[str, ...]) -> list[str]:
    if not parameters:
        return []
    try:
        accepted = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in parameters if name not in accepted]
