"""PyTorch: a *root* module, called with gradients off, is one request.

Roots are the modules on which the application calls ``eval()``, those that ``torch.compile``, TorchScript
and ``torch.export`` return, and those named by configuration or API. Only roots are hooked: their
children, and all modules that are no roots, are what they were.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import wrapt

from otel_aimon.core.call import quiet
from otel_aimon.core.guard import swallow
from otel_aimon.instrumentation.torch_roots import Roots

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

_roots_of: weakref.WeakKeyDictionary[Hooks, Roots] = weakref.WeakKeyDictionary()

_SCRIPTING = ("script", "trace", "trace_module", "load", "freeze", "optimize_for_inference")
"""Functions of ``torch.jit`` that return a module which is ready to serve."""


def hook_modules(hooks: Hooks, module: Any) -> None:
    """Hook ``torch.nn.Module``: who calls ``eval()`` means to serve.

    Args:
        hooks: Of PyTorch.
        module: ``torch.nn.modules.module``.
    """
    base = module.Module
    roots = _roots_of[hooks] = Roots(hooks.recorder, base, module.torch)
    hooks.on_restore(roots.restore)
    hooks.wrap(base, "eval", roots.after_eval)
    hooks.wrap(base, "compile", roots.after_compile)
    hooks.wrap(base, "_replicate_for_data_parallel", roots.after_replication)
    for name in hooks.settings.torch_roots:
        _await_class(hooks, roots, name)


def hook_script(hooks: Hooks, module: Any) -> None:
    """Hook ``torch.jit``.

    Args:
        hooks: Of PyTorch.
        module: ``torch.jit``.
    """
    roots = _roots_of[hooks]
    for name in _SCRIPTING:
        parameters = ("_frames_up",) if name == "script" else ()
        hooks.wrap(module, name, roots.after_scripting, parameters)


def hook_compiled(hooks: Hooks, module: Any) -> None:
    """Hook the modules that ``torch.compile`` returns.

    Args:
        hooks: Of PyTorch.
        module: ``torch._dynamo.eval_frame``.
    """
    compiled = getattr(module, "OptimizedModule", None)
    if compiled is None or "__call__" not in vars(compiled):
        hooks.leave_out("torch._dynamo.OptimizedModule", "it has no __call__ of its own")
        return
    hooks.wrap(compiled, "__call__", _roots_of[hooks].around_compiled)


def hook_tracing(_hooks: Hooks, module: Any) -> None:
    """Keep the compiler from tracing our frames when it meets them; it goes on with the module's own.

    Args:
        module: ``torch._dynamo.trace_rules``.
    """
    module.add("otel_aimon")


def hook_fx(hooks: Hooks, module: Any) -> None:
    """Keep symbolic tracing silent: it calls modules to see what they do.

    Args:
        hooks: Of PyTorch.
        module: ``torch.fx._symbolic_trace``.
    """
    hooks.wrap(module.Tracer, "trace", lambda original: quiet(original, hooks.recorder))


def hook_exported(hooks: Hooks, module: Any) -> None:
    """Hook the modules of exported programs.

    Args:
        hooks: Of PyTorch.
        module: ``torch.export.exported_program``.
    """
    hooks.wrap(module.ExportedProgram, "module", _roots_of[hooks].after_unlifting)


def add_root(hooks: Hooks, module: Any, name: str | None) -> None:
    """Make ``module`` a root, whether or not ``eval()`` is called on it.

    Args:
        hooks: Of PyTorch.
        module: Any ``torch.nn.Module``; anything else is left alone.
        name: The model's name; its own by default.
    """
    roots = _roots_of.get(hooks)
    if roots is not None:
        roots.add(module, name=name, always_serving=True)


def _await_class(hooks: Hooks, roots: Roots, path: str) -> None:
    """Make every instance of the class at ``path`` a root, once its module is imported."""
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        hooks.leave_out(f"the torch root {path}", "it is not written as package.module.Class")
        return

    def on_import(module: Any) -> None:
        cls = getattr(module, class_name, None)
        try:
            if not isinstance(cls, type) or not issubclass(cls, roots.base):
                hooks.leave_out(f"the torch root {path}", "there is no such module class")
            elif "__init__" in vars(cls):
                hooks.wrap(cls, "__init__", roots.after_init)
            else:
                hooks.leave_out(f"the torch root {path}", "its class has no __init__ of its own")
        except Exception as error:
            swallow(error, "the torch roots of the settings")

    wrapt.register_post_import_hook(on_import, module_name)
