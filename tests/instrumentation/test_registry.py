"""The table of frameworks agrees with the entry points, the package metadata and the hook modules."""

from __future__ import annotations

import ast
import sys
from importlib import metadata, util
from pathlib import Path

import pytest

from otel_aimon import entrypoints
from otel_aimon.instrumentation.registry import BY_NAME, FRAMEWORKS, Framework

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)


def installed() -> dict[str, metadata.EntryPoint]:
    return {
        each.name: each
        for each in metadata.entry_points(group="opentelemetry_instrumentor")
        if each.name.startswith("aimon")
    }


def test_names_are_distinct() -> None:
    assert len(BY_NAME) == len(FRAMEWORKS)


def test_one_entry_point_for_the_runtime_and_one_for_each_framework() -> None:
    assert set(installed()) == {"aimon", *(f"aimon_{name}" for name in BY_NAME)}
    assert set(entrypoints.FRAMEWORK_INSTRUMENTORS) == set(BY_NAME)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in the standard library from 3.11 on")
def test_pyproject_says_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["opentelemetry_instrumentor"]
    assert declared == {name: each.value for name, each in installed().items()}
    # With `instruments`, one framework that is missing would disable all of ours.
    assert not {"instruments", "instruments-any"} & set(project["optional-dependencies"])


@EACH
def test_the_entry_point_is_the_frameworks(framework: Framework) -> None:
    cls = installed()[f"aimon_{framework.name}"].load()
    assert cls.entry_point == f"aimon_{framework.name}"
    assert cls.framework == framework.name
    assert cls().instrumentation_dependencies() == ()


@EACH
def test_every_hook_function_is_defined(framework: Framework) -> None:
    # Read, not imported: a hook module may import its framework.
    spec = util.find_spec(f"otel_aimon.instrumentation.{framework.name}")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    names = {
        node.name if isinstance(node, ast.FunctionDef) else alias.asname or alias.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ImportFrom))
        for alias in (node.names if isinstance(node, ast.ImportFrom) else [ast.alias("")])
    }
    assert {function for _, function in framework.hooks} <= names
