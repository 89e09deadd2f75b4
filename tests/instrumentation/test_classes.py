"""Methods that class after class defines anew: found in all of them, and put back in all of them."""

from __future__ import annotations

import functools
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from otel_aimon.config import Settings
from otel_aimon.instrumentation.classes import Methods, hook_method, subclasses
from otel_aimon.instrumentation.hooks import Hooks
from tests.core.conftest import make_bench


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    bench = make_bench()
    made = Hooks("fw", bench.recorder, Settings())
    yield made
    made.restore()
    bench.provider.shutdown()


def make_base() -> Any:
    class Base:
        def run(self) -> list[str]:
            return ["base"]

    return Base


def noting(seen: list[str]) -> Callable[[Any], Any]:
    """A wrapper that notes each call."""

    def make(original: Any) -> Any:
        @functools.wraps(original)
        def call(self: Any) -> Any:
            seen.append(type(self).__name__)
            return original(self)

        return call

    return make


def test_classes_that_exist_and_those_defined_later(hooks: Hooks) -> None:
    base: Any = make_base()
    seen: list[str] = []

    class Early(base):
        def run(self) -> list[str]:
            return ["early"]

    originals = {cls: vars(cls)["run"] for cls in (base, Early)}
    hook_method(hooks, base, "run", noting(seen))

    class Late(base):
        def run(self) -> list[str]:
            return ["late", *super().run()]

    class Heir(Late):
        pass

    assert (Early().run(), Heir().run(), base().run()) == (["early"], ["late", "base"], ["base"])
    # Heir's own and that of its parent's parent.
    assert seen == ["Early", "Heir", "Heir", "Base"]
    late = Late.run
    hooks.restore()
    assert {cls: vars(cls)["run"] for cls in originals} == originals
    assert "__init_subclass__" not in vars(base)
    assert Late.run is late.__wrapped__  # type: ignore[attr-defined]
    assert "run" not in vars(Heir)


def test_a_mixin_that_defines_it(hooks: Hooks) -> None:
    base: Any = make_base()
    seen: list[str] = []
    hook_method(hooks, base, "run", noting(seen))

    class Mixin:
        def run(self) -> list[str]:
            return ["mixin"]

    class Mixed(Mixin, base):
        pass

    assert Mixed().run() == ["mixin"]
    assert seen == ["Mixed"]


def test_arguments_of_class_definitions_reach_other_parents(hooks: Hooks) -> None:
    base: Any = make_base()
    hook_method(hooks, base, "run", noting([]))

    class Named:
        def __init_subclass__(cls, *, name: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.name = name  # type: ignore[attr-defined]

    class Both(base, Named, name="both"):
        pass

    assert Both.name == "both"


def test_a_parent_that_takes_note_of_classes_itself(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    class Base:
        def __init_subclass__(cls) -> None:
            pass

        def run(self) -> None:
            pass

    seen: list[str] = []
    hook_method(hooks, Base, "run", noting(seen))
    Base().run()
    assert seen == ["Base"]
    assert "run of classes that are still to be defined stays without telemetry" in caplog.text


def test_what_is_no_plain_function(hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
    class Base:
        run = staticmethod(len)

    methods = Methods(hooks, "run", noting([]))
    assert not methods.cover(Base)
    assert not methods.cover(Base)
    assert not methods.cover(object)
    assert len(caplog.records) == 1


def test_nothing_is_replaced_once_all_is_put_back(hooks: Hooks) -> None:
    base: Any = make_base()
    methods = Methods(hooks, "run", noting([]))
    hooks.restore()
    assert not methods.cover(base)
    assert not hasattr(base.run, "__wrapped__")


def test_a_wrapper_of_somebody_else_stays(hooks: Hooks) -> None:
    base: Any = make_base()
    hook_method(hooks, base, "run", noting([]))
    theirs = noting([])(base.run)
    base.run = theirs
    hooks.restore()
    assert vars(base)["run"] is theirs
    assert base().run() == ["base"]


def test_no_class_is_kept_alive(hooks: Hooks) -> None:
    base: Any = make_base()
    hook_method(hooks, base, "run", noting([]))

    class Gone(base):
        def run(self) -> list[str]:
            return []

    watch = weakref.ref(Gone)
    del Gone
    gc.collect()
    assert watch() is None


class Pickled:
    """Can be found by its name."""

    def run(self) -> list[str]:
        return ["pickled"]


def test_a_method_pickles_by_its_name(hooks: Hooks) -> None:
    hook_method(hooks, Pickled, "run", noting([]))
    assert pickle.loads(pickle.dumps(Pickled.run)) is Pickled.run


def test_each_class_once() -> None:
    base: Any = make_base()

    class Left(base):
        pass

    class Right(base):
        pass

    class Both(Left, Right):
        pass

    assert sorted(cls.__name__ for cls in subclasses(base)) == ["Base", "Both", "Left", "Right"]
