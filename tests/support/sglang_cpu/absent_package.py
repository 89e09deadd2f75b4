"""Stands in for a package that SGLang imports and a CPU cannot have: anything can be imported from it, and does nothing.

SGLang's engine plumbing on a CPU: not a supported configuration.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any


def stand_in(package: str) -> Any:
    """Let everything inside a package be imported.

    Args:
        package: Its name; its own modules, where it has some, come first.

    Returns:
        The ``__getattr__`` of the package.
    """
    sys.meta_path.append(_Finder(package))
    return _attributes


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str) -> None:
        self._prefix = package + "."

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> Any:
        if fullname.startswith(self._prefix):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, _spec: Any) -> None:
        """Leave that to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _attributes  # type: ignore[method-assign]


def _attributes(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing


class _Members(type):
    def __getattr__(cls, name: str) -> Any:
        return _attributes(name)()


class _Nothing(metaclass=_Members):
    """Any class, function or value."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        return _Nothing()

    def __getattr__(self, name: str) -> Any:
        return _attributes(name)()
