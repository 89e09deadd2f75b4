"""Root modules: those that an application serves with. Calling one with gradients off is a request.

A root is told apart from its children by an attribute of its own, ``_compiled_call_impl``. PyTorch calls
what stands there in place of the module's ``forward`` and hooks; ``Module.compile()`` uses it. So nothing
that all modules share is patched, children run exactly the code that they run without us, and pickles,
which leave the attribute out, stay as they are.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch
from opentelemetry.context import attach, detach

from otel_aimon.core.guard import swallow
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.torch_device import device_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.core.series import Series

FRAMEWORK = "torch"
"""Value of ``aimon.framework``."""

OPERATION = "forward"
"""Value of ``aimon.operation``."""

ATTRIBUTE = "_compiled_call_impl"
"""Where PyTorch looks for what to call in place of a module's ``forward``."""

_is_grad_enabled = torch.is_grad_enabled
_is_compiling = torch.compiler.is_compiling
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_tracing_state = torch._C._get_tracing_state
_frame = sys._getframe


_set_eval_frame = torch._C._dynamo.eval_frame.set_eval_frame


def _compiler_callback() -> Any:
    """Not None where the compiler takes a look at each Python frame that is about to run.

    Whoever sets it is told what it was. ``get_eval_frame_callback`` is no way to ask: in some versions, such
    as 2.6, it gives away a reference that is not its own, and the process crashes after a while.
    """
    callback = _set_eval_frame(None)
    _set_eval_frame(callback)
    return callback


def is_plain_inference() -> bool:
    """Whether what is called now runs with gradients off, and is not compiled, traced or exported."""
    # The compiler takes the first answer for a constant, and looks no further.
    return not (
        _is_dynamo_compiling()
        or _is_grad_enabled()
        or _is_compiling()
        or _compiler_callback() is not None
        or _tracing_state() is not None
    )


class Root:
    """What stands in a root's ``_compiled_call_impl``: calls the module, and records the call.

    It refers to its module weakly: a model that the application drops is freed at once.

    Args:
        recorder: Takes the requests.
        module: The root.
        inner: What the application has put there, by ``Module.compile()``; None for nothing.

    Attributes:
        module: A weak reference to the root.
        inner: As above.
        name: The model's name; None to read it off the module.
        was_evaluated: It was seen in evaluation mode: from then on training mode means training.
    """

    __slots__ = (
        "__weakref__",
        "_first_parameter",
        "_named",
        "_own_name",
        "_recorder",
        "_series",
        "_series_name",
        "inner",
        "module",
        "name",
        "was_evaluated",
    )

    def __init__(self, recorder: Recorder, module: Any, inner: Any) -> None:
        self.module: Any = weakref.ref(module)
        self.inner = inner
        self.name: str | None = None
        self.was_evaluated = False
        self._recorder = recorder
        self._named: Any = weakref.ref(_original(module))
        self._own_name = _own_name(module)
        self._series: Series | None = None
        self._series_name: str | None = None
        self._first_parameter: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``Module._call_impl``."""
        inner = self.inner
        module: Any = self.module()
        if _is_dynamo_compiling():
            # Traced into a graph, as if it were not here.
            return module._call_impl(*args, **kwargs) if inner is None else inner(*args, **kwargs)
        caller: Any = _frame(1).f_locals.get("self")
        if caller is not module and _stands_in(self, caller):
            # A replica or a wrapper that shares the root's attributes, and is not the root.
            return caller._call_impl(*args, **kwargs) if inner is None else inner(*args, **kwargs)
        call = module._call_impl if inner is None else inner
        if (
            self._recorder.closed
            or _is_grad_enabled()
            or _is_compiling()
            or _compiler_callback() is not None
            or _tracing_state() is not None
        ):
            return call(*args, **kwargs)
        try:
            inference = self._start(module, args, kwargs)
        except Exception as error:
            swallow(error, "the start of a module's call")
            inference = None
        if inference is None:
            return call(*args, **kwargs)
        token = attach(inference.context)  # type: ignore[arg-type]
        try:
            result = call(*args, **kwargs)
        except BaseException as error:
            detach(token)
            inference.fail(error)
            raise
        detach(token)
        inference.end()
        return result

    def _start(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        if getattr(module, "training", False):
            if self.was_evaluated:
                return None
        else:
            self.was_evaluated = True
        inference = self._recorder.start(self._current_series(), Layer.MODEL)
        if inference is not None:
            # Without this, modes and tensor classes of the application would see what is read here.
            with torch._C.DisableTorchFunction():
                tensor = _first_tensor(args, kwargs)
                inference.batch_size = _rows(tensor)
                inference.device = self._device(module, tensor)
        return inference

    def _current_series(self) -> Series:
        name = self.name or _name_in_config(self._named()) or self._own_name
        if self._series is None or name is not self._series_name:
            self._series = self._recorder.series(FRAMEWORK, OPERATION, name)
            self._series_name = name
        return self._series

    def _device(self, module: Any, tensor: Any) -> str | None:
        """Where the first parameter is, else where the input is.

        Modules move, so only which parameter is the first one is remembered.
        """
        found = self._first_parameter
        parameter = None if found is None else found()
        if parameter is None and found is not _nothing:
            parameter = next(module.parameters(), None)
            self._first_parameter = _nothing if parameter is None else weakref.ref(parameter)
        if parameter is None:
            parameter = tensor
        if parameter is None:
            return None
        device = parameter.device
        # Weights that are brought in as they are needed are nowhere before the call.
        return None if device.type == "meta" else device_name(device)

    def __copy__(self) -> None:
        """A copied module is no root until ``eval()`` is called on it."""

    def __deepcopy__(self, memo: Any) -> None:
        """A copied module is no root until ``eval()`` is called on it."""

    def __reduce__(self) -> Any:
        """Leave None in the pickles of classes that write all their attributes."""
        return type(None), ()


def _nothing() -> None:
    """Stand in for the first parameter of a module without any."""


class Roots:
    """All roots of an instrumented process.

    Args:
        recorder: Takes the requests.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._roots: weakref.WeakSet[Root] = weakref.WeakSet()
        self._classes: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, module: Any, name: str | None = None) -> None:
        """Make a root of a module, unless it is one already.

        Args:
            module: A ``torch.nn.Module``; anything else is left alone.
            name: The model's name; None to read it off the module.
        """
        try:
            if isinstance(module, torch.nn.Module):
                self._made(module, name)
        except Exception as error:
            swallow(error, "a new root module")

    def _made(self, module: Any, name: str | None = None) -> Root:
        root = self._found(module)
        if root is None:
            attributes = vars(module)
            inner = attributes.get(ATTRIBUTE)
            # Attributes that were copied hold the root that they came from.
            inner = inner.inner if type(inner) is Root else inner
            root = Root(self._recorder, module, inner)
            if inner is not None or _is_pickled_by_torch(type(module)):
                attributes[ATTRIBUTE] = root
            else:
                self._of_class(type(module)).hold(module, root)
            self._roots.add(root)
        root.name = name or root.name
        root.was_evaluated = root.was_evaluated or not getattr(module, "training", True)
        return root

    def _found(self, module: Any) -> Root | None:
        root = vars(module).get(ATTRIBUTE)
        if root is None:
            of_class = vars(type(module)).get(ATTRIBUTE)
            root = of_class.held(module) if isinstance(of_class, _RootsOfClass) else None
        if type(root) is Root and root.module() is module and root in self._roots:
            return root
        return None

    def _of_class(self, cls: Any) -> _RootsOfClass:
        found = vars(cls).get(ATTRIBUTE)
        if not isinstance(found, _RootsOfClass):
            found = _RootsOfClass(self._made)
            setattr(cls, ATTRIBUTE, found)
            self._classes.add(cls)
        return found

    def add_class(self, cls: Any) -> None:
        """Make roots of all instances of a class and its subclasses, those that exist too."""
        self._of_class(cls).every = True

    @contextlib.contextmanager
    def set_aside(self, module: Any) -> Iterator[None]:
        """Let a module and its children have no attribute of ours for a while.

        Args:
            module: A ``torch.nn.Module``.
        """
        found = [
            (vars(each), root) for each in module.modules() if type(root := vars(each).get(ATTRIBUTE)) is Root
        ]
        for attributes, root in found:
            _put_back(attributes, root)
        try:
            yield
        finally:
            for attributes, root in found:
                if attributes.get(ATTRIBUTE) is root.inner and root in self._roots:
                    attributes[ATTRIBUTE] = root

    def clear(self) -> None:
        """Make them all ordinary modules again."""
        for root in list(self._roots):
            module = root.module()
            if module is not None:
                _put_back(vars(module), root)
        for cls in list(self._classes):
            if isinstance(vars(cls).get(ATTRIBUTE), _RootsOfClass):
                delattr(cls, ATTRIBUTE)
        self._roots.clear()
        self._classes.clear()


class _RootsOfClass:
    """Stands in the ``_compiled_call_impl`` of a class, and finds the root that an instance is.

    It is for classes that the settings name, and for those that pickle all their attributes: a
    root of such a class must have none of ours.

    Args:
        make: Makes a root of a module.
    """

    def __init__(self, make: Callable[[Any], Root]) -> None:
        self.every = False
        """All instances are roots, and not only those that are held."""
        self._make = make
        self._held: dict[int, Root] = {}

    def __get__(self, module: Any, _owner: Any = None) -> Any:
        if module is None or _is_dynamo_compiling():
            return None
        root = self.held(module)
        if root is not None or not self.every:
            return root
        try:
            return self._make(module)
        except Exception as error:
            swallow(error, "a module of a configured class")
            return None

    def held(self, module: Any) -> Root | None:
        """The root that ``module`` is; None when it has an attribute of its own, or is no root."""
        root = self._held.get(id(module))
        return root if root is not None and root.module() is module else None

    def hold(self, module: Any, root: Root) -> None:
        """Keep the root for as long as its module lives."""
        identity, held = id(module), self._held
        held[identity] = root
        root.module = weakref.ref(module, lambda _: held.pop(identity, None))

    def __reduce__(self) -> Any:
        """Leave None in the pickles of classes that are pickled with their bodies."""
        return type(None), ()


_PICKLING = ("__getstate__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__")


def _is_pickled_by_torch(cls: Any) -> bool:
    """Whether PyTorch says what goes into pickles and copies, and leaves the attribute out."""
    if issubclass(cls, (torch.jit.ScriptModule, torch.fx.GraphModule)) or cls.__name__ == "OptimizedModule":
        return True
    base = torch.nn.Module
    return all(getattr(cls, name, None) is getattr(base, name, None) for name in _PICKLING)


def _put_back(attributes: dict[str, Any], root: Root) -> None:
    """Let a module's attributes be what they were before it was a root."""
    if attributes.get(ATTRIBUTE) is root:
        if root.inner is None:
            del attributes[ATTRIBUTE]
        else:
            attributes[ATTRIBUTE] = root.inner


def _stands_in(root: Root, caller: Any) -> bool:
    return issubclass(type(caller), torch.nn.Module) and vars(caller).get(ATTRIBUTE) is root


# --- what is known of a call -------------------------------------------------------------------


def _own_name(module: Any) -> str:
    """What to call a module whose attributes say nothing else: its hub name, or its class."""
    # This may be a property of the application's, so it is asked once.
    name = getattr(getattr(module, "config", None), "_name_or_path", None)
    return name if type(name) is str and name else _class_name(_original(module))


def _class_name(module: Any) -> str:
    """The class that the application wrote, behind what PyTorch has made of its instance."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        original = getattr(module, "original_name", None)
        return original if type(original) is str and original else name
    return (_exported_class(module) or name) if name == "GraphModule" else name


def _original(module: Any) -> Any:
    """The module that ``torch.compile`` was called on, else ``module`` itself."""
    if type(module).__name__ != "OptimizedModule":
        return module
    return vars(module)["_modules"].get("_orig_mod", module)


def _exported_class(module: Any) -> str | None:
    """The class of the module that was exported: nodes say in which modules they were traced."""
    for node in module.graph.nodes:
        for path, cls in (node.meta.get("nn_module_stack") or {}).values():
            if path:
                return None
            name = cls if isinstance(cls, str) else cls.__name__
            return str(name.rpartition(".")[2])
    return None


def _name_in_config(module: Any) -> str | None:
    """What Transformers calls the model, which may change; only plain attributes are read."""
    config = None if module is None else vars(module).get("config")
    name = None if config is None else getattr(config, "_name_or_path", None)
    return name if type(name) is str and name else None


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for argument in (*args, *kwargs.values()):
        if issubclass(type(argument), torch.Tensor):
            return argument
    return None


def _rows(tensor: Any) -> int | None:
    """The first dimension; None for a single number, and for a nested tensor, which has no shape."""
    if tensor is None:
        return None
    try:
        rows = tensor.shape[0]
    except (IndexError, RuntimeError):
        return None
    return rows if type(rows) is int else None


# --- the compiler ------------------------------------------------------------------------------


def pass_through_compiler() -> None:
    """Let the compiler go past a root's own frame to the application's, and compile that."""
    frames = torch._C._dynamo.eval_frame
    code = Root.__call__.__code__
    if hasattr(frames, "skip_code"):
        frames.skip_code(code)
    elif hasattr(frames, "set_code_exec_strategy"):
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, default))
