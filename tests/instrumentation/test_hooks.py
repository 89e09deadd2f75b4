"""Attributes are replaced where they are defined, and every original is put back exactly."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer

from otel_aimon.config import Settings
from otel_aimon.core import guard
from otel_aimon.core.recorder import Recorder
from otel_aimon.instrumentation.hooks import Hooks

SOURCE = '''
"""A framework of a few lines."""

VERSION = "1.0"
NOTHING = None

def load(path):
    return path

class Base:
    def predict(self, inputs, scale=1):
        return ("predict", inputs)

    @classmethod
    def make(cls, inputs):
        return (cls, inputs)

    @staticmethod
    def check(inputs):
        return inputs

class Derived(Base):
    pass
'''


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "throwaway.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    module: ModuleType = importlib.import_module("throwaway")
    yield module
    del sys.modules["throwaway"]


@pytest.fixture
def hooks() -> Hooks:
    recorder = Recorder(NoOpTracer(), queue_size=64, max_models=1, stage_spans=True)
    return Hooks("throwaway", recorder, Settings())


def marked(original: Any) -> Any:
    """A wrapper that marks what it returns."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ("wrapped", original(*args, **kwargs))

    return wrapper


def test_functions_and_all_kinds_of_methods(hooks: Hooks, framework: Any) -> None:
    before = (dict(vars(framework)), dict(vars(framework.Base)))
    assert hooks.wrap(framework, "load", marked)
    for name in ("predict", "make", "check"):
        assert hooks.wrap(framework.Base, name, marked)
    assert framework.load("x") == ("wrapped", "x")
    assert framework.Base().predict("x") == ("wrapped", ("predict", "x"))
    assert framework.Derived.make("x") == ("wrapped", (framework.Derived, "x"))
    assert framework.Derived.check("x") == ("wrapped", "x")
    assert isinstance(vars(framework.Base)["make"], classmethod)
    assert isinstance(vars(framework.Base)["check"], staticmethod)

    hooks.restore()
    after = (dict(vars(framework)), dict(vars(framework.Base)))
    for was, now in zip(before, after, strict=True):
        assert list(was) == list(now)
        assert all(was[name] is now[name] for name in was if name not in {"__weakref__", "__dict__"})
    hooks.restore()


def test_only_the_class_that_defines_it(
    hooks: Hooks, framework: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert not hooks.wrap(framework.Derived, "predict", marked)
    assert "predict" not in vars(framework.Derived)
    assert "Derived.predict stays without telemetry: it is not there" in caplog.text


@pytest.mark.parametrize(
    ("name", "parameters", "why"),
    [
        ("gone", (), "it is not there"),
        ("NOTHING", (), "it is not there"),
        ("VERSION", (), "it is not a function"),
        ("load", ("path", "mode"), "it has no parameter mode"),
    ],
)
def test_what_looks_otherwise_is_left_out_with_one_line(
    hooks: Hooks,
    framework: Any,
    caplog: pytest.LogCaptureFixture,
    name: str,
    parameters: tuple[str, ...],
    why: str,
) -> None:
    before = dict(vars(framework))
    for _ in range(2):
        assert not hooks.wrap(framework, name, marked, parameters)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"otel-aimon: throwaway.{name} stays without telemetry: {why} in this version of throwaway. "
        "Everything else is instrumented."
    )
    assert dict(vars(framework)) == before


def test_a_function_without_a_signature_is_trusted(hooks: Hooks, framework: Any) -> None:
    framework.biggest = max
    assert hooks.wrap(framework, "biggest", marked, ("key",))
    assert framework.biggest(1, 2) == ("wrapped", 2)
    hooks.restore()
    assert framework.biggest is max


def test_somebody_elses_wrapper_on_top_stays(hooks: Hooks, framework: Any) -> None:
    original = framework.load
    hooks.wrap(framework, "load", marked)
    theirs = marked(framework.load)
    framework.load = theirs
    hooks.restore()
    assert framework.load is theirs
    framework.load = original


def test_wrapped_twice_it_is_unwrapped_twice(hooks: Hooks, framework: Any) -> None:
    original = framework.load
    hooks.wrap(framework, "load", marked)
    hooks.wrap(framework, "load", marked)
    hooks.restore()
    assert framework.load is original


def test_one_that_cannot_be_restored_leaves_the_others_alone(
    hooks: Hooks, framework: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    original, undone = framework.load, []
    hooks.wrap(framework, "load", marked)
    hooks.on_restore(lambda: undone.append(1))
    hooks.on_restore(lambda: 1 / 0)
    hooks.restore()
    assert framework.load is original
    assert undone == [1]


class TestInherited:
    """A method that a class inherits is wrapped for it alone."""

    class Parent:
        def predict(self, inputs: Any) -> Any:
            """Predict."""
            return ("parent", inputs)

    def test_its_relatives_stay_as_they_are(self, hooks: Hooks) -> None:
        class Child(self.Parent):
            pass

        class Grandchild(Child):
            pass

        before = dict(vars(Child))
        assert hooks.override(Child, "predict", marked)
        assert Child().predict(1) == ("wrapped", ("parent", 1))
        assert Grandchild().predict(1) == ("wrapped", ("parent", 1))
        assert self.Parent().predict(1) == ("parent", 1)
        assert Child.predict.__doc__ == "Predict."
        hooks.restore()
        assert dict(vars(Child)) == before
        assert Child().predict(1) == ("parent", 1)

    def test_a_parents_method_that_is_replaced_later(
        self, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Child(self.Parent):
            pass

        hooks.override(Child, "predict", marked)
        monkeypatch.setattr(self.Parent, "predict", lambda _self, inputs: ("theirs", inputs))
        assert Child().predict(1) == ("wrapped", ("theirs", 1))

    def test_one_of_its_own_is_wrapped(self, hooks: Hooks) -> None:
        class Child(self.Parent):
            def predict(self, inputs: Any) -> Any:
                return ("child", inputs)

        original = Child.predict
        assert hooks.override(Child, "predict", marked)
        assert Child().predict(1) == ("wrapped", ("child", 1))
        hooks.restore()
        assert Child.predict is original

    def test_somebody_elses_on_top_stays(self, hooks: Hooks) -> None:
        class Child(self.Parent):
            pass

        hooks.override(Child, "predict", marked)
        theirs = Child.predict = marked(Child.predict)  # type: ignore[method-assign]
        hooks.restore()
        assert Child.predict is theirs

    def test_one_that_is_not_there(self, hooks: Hooks, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "otel_aimon"):
            assert not hooks.override(self.Parent, "nothing", marked)
        assert "Parent.nothing stays without telemetry" in caplog.text
