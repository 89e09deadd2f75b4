"""Which torch modules are roots, and what happens when one is called.

An ordinary root is hooked by its instance attribute ``_compiled_call_impl``, which ``nn.Module`` calls in
place of ``_call_impl`` when it is set; PyTorch itself leaves it out of pickles and copies, and the compiler
does not look at it. A module whose class says itself what goes into a pickle (scripted, exported or a user's
with ``__getstate__``) is hooked in its class's ``__call__`` instead.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder

FRAMEWORK = "torch"
OPERATION = "forward"

_HOOK = "_compiled_call_impl"


class _Root:
    """One root.

    Attributes:
        reference: The module, which lives as long as the application wants.
        name: What the model is called.
        always_serving: It serves in training mode too: it was named, or has no mode.
        hook: What was put into the instance; None when the class is hooked.
        compiled: What ``Module.compile`` had put there before.
    """

    __slots__ = ("always_serving", "compiled", "hook", "name", "reference")

    def __init__(self, reference: weakref.ref[Any], name: str, *, always_serving: bool) -> None:
        self.reference = reference
        self.name = name
        self.always_serving = always_serving
        self.hook: Any = None
        self.compiled: Any = None


class Roots:
    """The roots of a process.

    Args:
        recorder: Starts the inferences.
        base: ``torch.nn.Module``.
        torch: The package, which may still be importing itself.
    """

    def __init__(self, recorder: Recorder, base: Any, torch: Any) -> None:
        self.base = base
        self._recorder = recorder
        self._torch = torch
        self._roots: dict[int, _Root] = {}
        self._classes: dict[type, Any] = {}
        self._device_names: dict[Any, str] = {}
        self._hookable = hasattr(base, _HOOK)

    # --- becoming a root -----------------------------------------------------------------------

    def after_eval(self, original: Any) -> Any:
        """Wrap ``Module.eval``."""

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(module, *args, **kwargs)
            guarded(self.add, module)
            return result

        return call

    def after_init(self, original: Any) -> Any:
        """Wrap the ``__init__`` of a class that the settings name."""

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> None:
            original(module, *args, **kwargs)
            guarded(self._add_named, module)

        return call

    def after_compile(self, original: Any) -> Any:
        """Wrap ``Module.compile``, which sets the attribute that hooks a root."""

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            known = self._roots.pop(id(module), None)
            result = original(module, *args, **kwargs)
            guarded(self._add_again, module, known)
            return result

        return call

    def after_scripting(self, original: Any) -> Any:
        """Wrap a function of ``torch.jit`` that returns a module."""
        counts_frames = "_frames_up" in getattr(original, "__code__", original).co_varnames

        # Tracing calls the module to see what it does: that is no request.
        silent = quiet(original, self._recorder)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if counts_frames:
                # Scripting looks names up in the caller's frame, which is two further away now.
                kwargs["_frames_up"] = kwargs.get("_frames_up", 0) + 2
            result = silent(*args, **kwargs)
            guarded(self.add, result)
            return result

        return call

    def after_unlifting(self, original: Any) -> Any:
        """Wrap ``ExportedProgram.module``; such a module has no training mode."""

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            guarded(self._add_named, result)
            return result

        return call

    def after_replication(self, original: Any) -> Any:
        """Wrap what ``DataParallel`` copies modules with: a replica is not the root that it came from."""

        @functools.wraps(original)
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            replica = original(module, *args, **kwargs)
            root = self._roots.get(id(module))
            if root is not None and root.reference() is module:
                vars(replica).pop(_HOOK, None)
            return replica

        return call

    def _add_named(self, module: Any) -> None:
        self.add(module, always_serving=True)

    def _add_again(self, module: Any, known: _Root | None) -> None:
        if known is None:
            self.add(module)
        else:
            self.add(module, name=known.name, always_serving=known.always_serving)

    def add(self, module: Any, *, name: str | None = None, always_serving: bool = False) -> None:
        """Make ``module`` a root; once is enough.

        Args:
            module: Anything that is no module is left alone.
            name: The model's name; its own by default.
            always_serving: Count calls in training mode too.
        """
        if not isinstance(module, self.base) or _is_compiled(module):
            return
        known = self._roots.get(id(module))
        if known is not None and known.reference() is module:
            known.always_serving = known.always_serving or always_serving
            known.name = name or known.name
            return
        identity = id(module)
        roots = self._roots
        reference = weakref.ref(module, lambda _: roots.pop(identity, None))
        root = roots[identity] = _Root(reference, name or _model_name(module), always_serving=always_serving)
        if self._hookable and _is_pickled_by_torch(type(module), self.base):
            root.compiled = vars(module).get(_HOOK)
            root.hook = vars(module)[_HOOK] = self._instance_call(root)
        else:
            self._hook_class(type(module))

    # --- being called --------------------------------------------------------------------------

    def _is_idle(self) -> Callable[[], bool]:
        """What tells whether gradients are off, and nobody traces or compiles."""
        torch = self._torch
        gradients, compiling, tracing = (
            torch.is_grad_enabled,
            torch.compiler.is_compiling,
            torch.jit.is_tracing,
        )
        # Whether the compiler watches the frames of this thread: what it calls belongs to its module.
        compiler = torch._C._dynamo.eval_frame.get_eval_frame_callback
        return lambda: not (gradients() or compiling() or compiler() is not None or tracing())

    def _instance_call(self, root: _Root) -> Any:
        """What a root has in place of ``_call_impl``. It holds the module weakly, and is no part of a cycle."""
        reference = root.reference
        is_compiling, is_idle = self._torch.compiler.is_compiling, self._is_idle()

        def forward(*args: Any, **kwargs: Any) -> Any:
            return reference()._call_impl(*args, **kwargs)  # type: ignore[union-attr]

        original = forward if root.compiled is None else root.compiled
        watched = observed(original, functools.partial(self._begin, root))

        def call(*args: Any, **kwargs: Any) -> Any:
            if is_compiling():
                return original(*args, **kwargs)
            if is_idle() and (root.always_serving or _is_in_eval_mode(reference())):
                return watched(*args, **kwargs)
            return original(*args, **kwargs)

        return call

    def _hook_class(self, cls: type) -> None:
        if cls in self._classes:
            return
        own = vars(cls).get("__call__")
        original: Any = cls.__call__
        roots = self._roots
        is_compiling, is_idle = self._torch.compiler.is_compiling, self._is_idle()

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            root = roots.get(id(args[0]))
            if root is None or not (root.always_serving or _is_in_eval_mode(args[0])):
                return None
            return self._start(root.name, args[1:], kwargs)

        watched = observed(original, begin)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and is_idle():
                return watched(*args, **kwargs)
            return original(*args, **kwargs)

        functools.update_wrapper(call, original)
        type.__setattr__(cls, "__call__", call)
        self._classes[cls] = own

    def around_compiled(self, original: Any) -> Any:
        """Wrap ``OptimizedModule.__call__``: all that ``torch.compile`` returns are roots."""
        is_compiling, is_idle = self._torch.compiler.is_compiling, self._is_idle()

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
            module = args[0]
            if not _is_in_eval_mode(module):
                return None
            known = self._roots.get(id(module._orig_mod))
            name = known.name if known is not None else _model_name(module._orig_mod)
            return self._start(name, args[1:], kwargs)

        watched = observed(original, begin)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and is_idle():
                return watched(*args, **kwargs)
            return original(*args, **kwargs)

        return call

    def _begin(self, root: _Root, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        return self._start(root.name, args, kwargs)

    def _start(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        recorder = self._recorder
        inference = recorder.start(recorder.series(FRAMEWORK, OPERATION, name), Layer.MODEL)
        if inference is None:
            return None
        tensor = self._first_tensor(args, kwargs)
        if tensor is not None:
            shape = tensor.shape
            inference.batch_size = int(shape[0]) if len(shape) else None
            inference.device = self._device_name(tensor.device)
        return inference

    def _first_tensor(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = self._torch.Tensor
        for value in (*args, *kwargs.values()):
            if isinstance(value, tensor):
                return value
        return None

    def _device_name(self, device: Any) -> str:
        name = self._device_names.get(device)
        if name is None:
            name = self._device_names[device] = str(device)
        return name

    def restore(self) -> None:
        """Make ordinary modules of all roots."""
        for root in list(self._roots.values()):
            module = root.reference()
            if module is None or root.hook is None or vars(module).get(_HOOK) is not root.hook:
                continue
            if root.compiled is None:
                del vars(module)[_HOOK]
            else:
                vars(module)[_HOOK] = root.compiled
        for cls, own in self._classes.items():
            if own is None:
                type.__delattr__(cls, "__call__")
            else:
                type.__setattr__(cls, "__call__", own)
        self._roots.clear()
        self._classes.clear()


def _is_in_eval_mode(module: Any) -> bool:
    # A frozen script has no mode any more.
    return not getattr(module, "training", False)


def _is_compiled(module: Any) -> bool:
    return "_torchdynamo_orig_callable" in vars(module)


def _is_pickled_by_torch(cls: Any, base: Any) -> bool:
    """Whether PyTorch alone says what goes into a pickle of ``cls``; it leaves the hook out."""
    return (
        getattr(cls, "__getstate__", None) is base.__getstate__
        and cls.__reduce__ is base.__reduce__
        and cls.__reduce_ex__ is base.__reduce_ex__
        and not hasattr(cls, "__deepcopy__")
        and not hasattr(cls, "__copy__")
    )


def _model_name(module: Any) -> str:
    """The name that a hub model was loaded by; else the name of the class, behind a script the original's."""
    config_name = getattr(getattr(module, "config", None), "_name_or_path", None)
    if isinstance(config_name, str) and config_name:
        return config_name
    original_name = getattr(module, "original_name", None)
    return original_name if isinstance(original_name, str) and original_name else type(module).__name__
