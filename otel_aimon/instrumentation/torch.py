"""PyTorch: a call of a module that the application serves with is one request.

There is no way to tell a model from its parts by looking at them, and a model may have thousands. So
applications tell: by calling ``eval()`` on a model, by compiling, scripting or exporting it, by naming
its class in the settings, or by :func:`otel_aimon.instrument_module`. Such modules are *roots*; what a
root does is in :mod:`otel_aimon.instrumentation.torch_roots`.
"""

from __future__ import annotations

import functools
import weakref
from types import FunctionType
from typing import TYPE_CHECKING, Any

import wrapt

from otel_aimon.core.call import quiet
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.classes import subclasses

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.instrumentation.hooks import Hooks
    from otel_aimon.instrumentation.torch_roots import Roots

    Add = Callable[[Any], None]
    """Makes a root of a module."""

_OURS = "_otel_aimon"
"""Marks a wrapper."""

_OLDEST = "2.6"
"""Before it the compiler looks into what stands before a module, and breaks its graph there."""

_roots: weakref.WeakKeyDictionary[Hooks, Roots] = weakref.WeakKeyDictionary()


def add_root(hooks: Hooks, module: Any, name: str | None = None) -> None:
    """Make a root of a module.

    Args:
        hooks: Of PyTorch.
        module: A ``torch.nn.Module``; anything else is left alone.
        name: The model's name; None to read it off the module.
    """
    roots = _roots.get(hooks)
    if roots is not None:
        roots.add(module, name)


def hook_modules(hooks: Hooks, module: Any) -> None:
    """Hook modules that are put into evaluation mode, scripted or traced, and configured classes.

    Args:
        hooks: Of PyTorch.
        module: ``torch``.
    """
    from otel_aimon.instrumentation import torch_roots

    base = module.nn.Module
    if module.__version__ < _OLDEST:
        hooks.leave_out("torch.nn.Module", "the compiler would not pass by what stands before a module")
        return
    if torch_roots.ATTRIBUTE not in vars(base):
        hooks.leave_out("torch.nn.Module", f"it has no {torch_roots.ATTRIBUTE}")
        return
    torch_roots.pass_through_compiler()
    roots = _roots[hooks] = torch_roots.Roots(hooks.recorder)
    hooks.on_restore(functools.partial(_forget, hooks))
    hooks.wrap(base, "compile", functools.partial(_observe_method, roots.add))
    _hook_torchscript(hooks, roots, module.jit)
    # What a tracer runs is nobody's request.
    hooks.wrap(module.fx._symbolic_trace.Tracer, "trace", lambda original: quiet(original, hooks.recorder))
    _hook_classes(hooks, roots, base)


def _forget(hooks: Hooks) -> None:
    roots = _roots.pop(hooks, None)
    if roots is not None:
        roots.clear()


def hook_compiled(hooks: Hooks, module: Any) -> None:
    """Hook what ``torch.compile`` makes of a module.

    Args:
        hooks: Of PyTorch.
        module: ``torch._dynamo.eval_frame``.
    """
    add = functools.partial(add_root, hooks)
    hooks.wrap(module.OptimizedModule, "__init__", functools.partial(_observe_method, add))


def hook_exported(hooks: Hooks, module: Any) -> None:
    """Hook the modules that exported programs are run as.

    Args:
        hooks: Of PyTorch.
        module: ``torch.export.exported_program``.
    """
    add = functools.partial(add_root, hooks)
    hooks.wrap(module.ExportedProgram, "module", functools.partial(_observe_result, add))


# --- where roots come from ---------------------------------------------------------------------


def _observe_eval(add: Add, original: Any) -> Any:
    from torch.compiler import is_dynamo_compiling

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = original(self, *args, **kwargs)
        if not is_dynamo_compiling():
            add(self)
        return module

    setattr(call, _OURS, True)
    return call


def _observe_method(add: Add, original: Any) -> Any:
    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        add(self)
        return result

    return call


def _observe_result(add: Add, original: Any) -> Any:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        add(result)
        return result

    return call


def _hook_torchscript(hooks: Hooks, roots: Roots, jit: Any) -> None:
    """Hook where scripted, traced, loaded and frozen modules come out.

    The public functions stay as they are, where an inner one will do: ``script`` looks names up in the
    frame of its caller.
    """
    observe = functools.partial(_observe_result, roots.add)
    hooks.wrap(jit._recursive, "create_script_module", functools.partial(_observe_scripting, roots))
    hooks.wrap(jit._serialization, "wrap_cpp_module", observe)
    for owner in (jit, jit._freeze):
        hooks.wrap(owner, "freeze", observe)
    # Tracing calls the module, and to check the trace calls it again: these are no requests.
    for owner in (jit, jit._trace):
        hooks.wrap(owner, "trace_module", lambda original: observe(quiet(original, hooks.recorder)))
    hooks.wrap(jit._trace, "_trace_impl", lambda original: quiet(original, hooks.recorder))


def _observe_scripting(roots: Roots, original: Any) -> Any:
    @functools.wraps(original)
    def create_script_module(nn_module: Any, *args: Any, **kwargs: Any) -> Any:
        # TorchScript makes a type of all that it finds in a module.
        with roots.set_aside(nn_module):
            made = original(nn_module, *args, **kwargs)
        if not (len(args) > 2 and args[2]) and not kwargs.get("is_tracing"):
            roots.add(made)
        return made

    return create_script_module


# --- classes -----------------------------------------------------------------------------------


def _hook_classes(hooks: Hooks, roots: Roots, base: Any) -> None:
    """Hook ``eval``, in each class that defines one, and the classes that the settings name.

    A class may well end its own ``eval`` with ``train(False)``, and not with that of its parent.
    """
    names = frozenset(hooks.settings.torch_roots)
    evaluating: weakref.WeakSet[Any] = weakref.WeakSet()

    def cover(cls: Any) -> None:
        function = vars(cls).get("eval")
        if type(function) is FunctionType and cls not in evaluating:
            evaluating.add(cls)
            type.__setattr__(cls, "eval", _observe_eval(roots.add, function))
        if f"{cls.__module__}.{cls.__qualname__}" in names:
            roots.add_class(cls)

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        guarded(cover, cls)

    def restore() -> None:
        for cls in list(evaluating):
            function = vars(cls).get("eval")
            if getattr(function, _OURS, False):
                type.__setattr__(cls, "eval", function.__wrapped__)

    hooks.on_restore(restore)
    for cls in subclasses(base):
        cover(cls)
    if "__init_subclass__" in vars(base):
        hooks.leave_out("classes that are still to be defined", "Module.__init_subclass__ is taken")
    else:
        base.__init_subclass__ = classmethod(init_subclass)
        hooks.on_restore(lambda: delattr(base, "__init_subclass__"))
    for name in hooks.settings.torch_roots:
        _check_class(hooks, roots, base, name)


def _check_class(hooks: Hooks, roots: Roots, base: Any, path: str) -> None:
    """Warn of a name that is no class of the module it names, once that is imported."""
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        hooks.leave_out(f"the torch root {path}", "it is not written as package.module.Class")
        return

    def check(module: Any) -> None:
        guarded(check_now, module)

    def check_now(module: Any) -> None:
        if _roots.get(hooks) is not roots or module_name == "__main__":
            return  # Uninstrumented since; still running.
        found = vars(module).get(class_name)
        if isinstance(found, type) and issubclass(found, base):
            roots.add_class(found)  # Perhaps by another name than its own.
        else:
            hooks.leave_out(f"the torch root {path}", "there is no such module class")

    wrapt.register_post_import_hook(check, module_name)
