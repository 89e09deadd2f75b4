"""Diffusers: each call of a pipeline is one request, with the denoising steps that it took.

Every pipeline defines ``__call__`` in its own class, and applications write more of them. So it is
replaced on each class whose body defines it, when the class is made, and on those that exist already.
A pipeline calls its model once per step: what it calls inside, modules of PyTorch and encoders of
Transformers, is part of the request and silent, so it stands at the layer of a model.

The steps are counted where they are done, in the scheduler's ``step``: how many were asked for says
neither where an image to start from lets the work begin, nor how often a scheduler of higher order asks the
model, nor when the application stopped it.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import PurePath
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import torch
from opentelemetry import context as context_api

from otel_aimon import semconv
from otel_aimon.core.call import observed, observed_async
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.core.recorder import running_in
from otel_aimon.instrumentation.classes import Methods, hook_method
from otel_aimon.instrumentation.torch_device import device_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "diffusers"
OPERATION = "generate"

_SCHEDULER = "scheduler"
"""How the names of the schedulers among a pipeline's components end."""

_STEPS = ("step", "step_pred", "step_correct")
"""Methods of schedulers that take a sample one step on."""

_SESSION = "OnnxRuntimeModel"
"""The models of pipelines whose tensors are copied to the host, wherever the models ran."""

_OUTPUTS = ("images", "videos", "frames", "audio")
"""What the state of a modular pipeline may hold at the end."""


def hook_pipelines(hooks: Hooks, module: Any) -> None:
    """Hook the pipelines that exist, and those still to be imported or defined.

    Args:
        hooks: Of Diffusers.
        module: ``diffusers.pipelines.pipeline_utils``.
    """
    base = module.DiffusionPipeline
    hook_method(hooks, base, "__call__", functools.partial(_observe_call, _Calls(hooks, base)))
    hooks.wrap(base, "progress_bar", _observe_progress_bar)


def hook_modular_pipelines(hooks: Hooks, module: Any) -> None:
    """Hook pipelines that are put together of blocks.

    Args:
        hooks: Of Diffusers.
        module: ``diffusers.modular_pipelines.modular_pipeline``.
    """
    base = module.ModularPipeline
    hook_method(hooks, base, "__call__", functools.partial(_observe_call, _Calls(hooks, base)))
    hooks.wrap(module.LoopSequentialPipelineBlocks, "progress_bar", _observe_progress_bar)


# --- the call ----------------------------------------------------------------------------------


class _Calls:
    """Begins and finishes the requests of all pipelines that are children of ``base``."""

    def __init__(self, hooks: Hooks, base: type) -> None:
        self._recorder: Recorder = hooks.recorder
        self._base = base
        self._step_methods = [Methods(hooks, name, _observe_step) for name in _STEPS]

    def begin(self, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        """Start the request of a call."""
        pipeline = args[0] if args else None
        if not isinstance(pipeline, self._base):
            return None
        steps = self._steps(pipeline)
        series = self._recorder.series(FRAMEWORK, OPERATION, _model_name(pipeline))
        inference = self._recorder.start(series, Layer.MODEL)
        if inference is not None:
            inference.details = steps
        return inference

    def finish(self, inference: Inference, args: tuple[Any, ...], _kwargs: Any, result: Any) -> None:
        """Read what came out, and whether all of it was wanted."""
        items = inference.batch_size = _produced(result)
        now = perf_counter_ns()
        if items:
            details = inference.details = {} if inference.details is None else inference.details
            details[semconv.AIMON_TIME_PER_ITEM] = (now - inference.start_ns) / 1e9 / items
        if _was_interrupted(args[0], inference.details):
            inference.cancel()
        else:
            inference.end(now)

    def _steps(self, pipeline: Any) -> _Steps | None:
        """See to it that the steps of the pipeline's schedulers are counted; None where they cannot be."""
        found, on_torch = False, True
        for name, each in list(vars(pipeline).items()):
            if name.endswith(_SCHEDULER) and each is not None:
                found = True
                if not any([methods.cover(type(each)) for methods in self._step_methods]):  # noqa: C419
                    return None
            elif type(each).__name__ == _SESSION:
                on_torch = False
        return _Steps(on_torch) if found else None


def _observe_call(calls: _Calls, original: Any) -> Any:
    observe = observed_async if inspect.iscoroutinefunction(original) else observed
    return observe(original, calls.begin, calls.finish)


def _model_name(pipeline: Any) -> str:
    """The hub name or path that the pipeline was loaded from, else its class, or that of its blocks."""
    state = vars(pipeline)
    for name in (
        getattr(state.get("_internal_dict"), "_name_or_path", None),
        state.get("_pretrained_model_name_or_path"),
    ):
        if isinstance(name, (str, PurePath)) and name:
            return str(name)
    return type(state.get("_blocks", pipeline)).__name__


def _produced(result: Any) -> int | None:
    """Items in a pipeline's output: images, videos, pieces of sound; its first field holds them."""
    fields = getattr(type(result), "__dataclass_fields__", None)
    if type(result) is tuple:
        result = result[0] if result else None
    elif type(result).__name__ == "PipelineState":
        values = result.values
        result = next((values[name] for name in _OUTPUTS if name in values), None)
    elif fields:
        result = getattr(result, next(iter(fields)))
    if type(result) is list:
        return len(result)
    shape = getattr(result, "shape", None) if type(result).__module__ in {"numpy", "torch"} else None
    return shape[0] if shape is not None and len(shape) > 1 else None


def _was_interrupted(pipeline: Any, steps: Any) -> bool:
    """Whether the application had the pipeline leave out steps, as a callback may ask it to.

    Pipelines that can be interrupted forget at the start of a call what was asked of the call before.
    """
    state = vars(pipeline)
    if state.get("_interrupt") is not True or not hasattr(type(pipeline), "interrupt"):
        return False
    planned = state.get("_num_timesteps")
    return not (isinstance(steps, _Steps) and type(planned) is int and steps.done >= planned)


# --- the steps ---------------------------------------------------------------------------------


class _Steps(dict[str, Any]):
    """What a span says of the denoising steps; true after each of them, however the call ends.

    Time per step is the time of the steps by their number, from the start of the loop where that is seen.

    Args:
        on_torch: The tensors that the models give lie where the models ran.

    Attributes:
        done: Steps that are through.
        inside: A step is being done: schedulers may stand on other schedulers.
        on_torch: As above.
    """

    __slots__ = ("_elapsed_ns", "_last_ns", "_timed", "done", "inside", "on_torch")

    def __init__(self, on_torch: bool) -> None:
        super().__init__({semconv.AIMON_DIFFUSION_STEPS: 0})
        self.on_torch = on_torch
        self.done = 0
        self.inside = False
        self._timed = 0
        self._elapsed_ns = 0
        self._last_ns = 0

    def begin_loop(self) -> None:
        """Time the next step from now on."""
        self._last_ns = perf_counter_ns()

    def count(self) -> None:
        """Note that a step is through."""
        now = perf_counter_ns()
        self.done += 1
        self[semconv.AIMON_DIFFUSION_STEPS] = self.done
        if self._last_ns:
            self._timed += 1
            self._elapsed_ns += now - self._last_ns
            self[semconv.AIMON_DIFFUSION_TIME_PER_STEP] = self._elapsed_ns / self._timed / 1e9
        self._last_ns = now


def _running() -> Inference | None:
    """The request whose steps are counted; training has schedulers too."""
    running = running_in(context_api.get_current())
    return running if running is not None and type(getattr(running, "details", None)) is _Steps else None


def _observe_progress_bar(original: Any) -> Any:
    @functools.wraps(original)
    def progress_bar(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        inference = guarded(_running)
        if inference is not None:
            inference.details.begin_loop()  # type: ignore[union-attr]
        return made

    return progress_bar


def _observe_step(original: Any) -> Any:
    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        inference = guarded(_running)
        steps: Any = None if inference is None else inference.details
        if inference is None or steps.inside:
            return original(*args, **kwargs)
        steps.inside = True
        try:
            result = original(*args, **kwargs)
        finally:
            steps.inside = False
        steps.count()
        if inference.device is None and steps.on_torch:
            # Weights may lie elsewhere than where they are used; what the model gave is where it ran.
            inference.device = guarded(_device, args[1] if len(args) > 1 else kwargs.get("model_output"))
        return result

    return step


def _device(model_output: Any) -> str | None:
    return device_name(model_output.device) if type(model_output) is torch.Tensor else None
