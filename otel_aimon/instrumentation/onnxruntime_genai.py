"""onnxruntime-genai: each turn of a generator, from its prompt to its last token, is one request.

The decoding loop is the user's: they give the prompt, ask for one token after another, and ask whether it is done.
Nothing here is called once per request, so that a request begins with the prompt and ends with the step after which
the generator is done.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_aimon import semconv
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "onnxruntime_genai"


def hook_generators(hooks: Hooks, module: Any) -> None:
    """Hook generators, and what says which model and how many sequences they have.

    Args:
        hooks: Of onnxruntime-genai.
        module: ``onnxruntime_genai``.
    """
    generators = _Generators(hooks.recorder)
    for owner in ("Config", "Model"):
        if hasattr(module, owner):
            hooks.wrap(getattr(module, owner), "__init__", generators.loaded)
    hooks.wrap(module.GeneratorParams, "set_search_options", generators.configured)
    hooks.wrap(module.Generator, "__init__", generators.made)
    hooks.wrap(module.Generator, "append_tokens", generators.prompted)
    hooks.wrap(module.Generator, "generate_next_token", generators.stepped)


class _Setup(NamedTuple):
    """What is known of a generator.

    Attributes:
        path: Of its model.
        device: Where it runs, if that is the CPU.
        sequences: That it generates at once.
    """

    path: str | None = None
    device: str | None = None
    sequences: int = 1


class _Turn:
    """A request that runs: a prompt and the tokens that come of it.

    Attributes:
        inference: The request.
    """

    __slots__ = ("_before_ns", "_prompted", "_sequences", "_steps", "inference")

    def __init__(self, inference: Inference, sequences: int) -> None:
        self.inference = inference
        self._sequences = sequences
        self._steps = 0
        self._before_ns = 0
        self._prompted: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a token has been asked for."""
        return self._steps > 0

    def prompt(self, ids: Any, generator: Any) -> None:
        """Count a part of the prompt, which the generator has just taken."""
        # In a batch the shorter prompts are padded, with ids that count for nothing.
        self.inference.add_input_tokens(_length(ids) if self._sequences == 1 else None)
        self._prompted = _count(generator)

    def step(self) -> None:
        """Count a step, which gives a token to each sequence that has not ended."""
        inference = self.inference
        self._before_ns = inference.last_ns
        inference.chunk()
        self._steps += 1
        inference.steps = self._steps
        if self._sequences == 1:
            inference.output_tokens = self._steps

    def finish(self, generator: Any) -> None:
        """End the request, whose generator is done."""
        inference = self.inference
        tokens = None if self._prompted is None else _count(generator)
        if tokens is not None and tokens - self._prompted == self._steps - 1:  # type: ignore[operator]
            # The last step gave the id that ends the text, which newer versions keep to themselves.
            inference.steps = self._steps - 1
            inference.last_ns = self._before_ns
            if self._sequences == 1:
                inference.output_tokens = inference.steps
            if not inference.steps:
                inference.first_ns = 0
        inference.end()

    def leave(self) -> None:
        """End the request, whose user has gone on to the next prompt."""
        self.inference.end(self.inference.last_ns)


class _Generators:
    """Follows the turns of all generators; keeps none of them alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._paths: Known[str] = Known()
        self._batches: Known[int] = Known()
        self._setups: Known[_Setup] = Known()
        self._turns: Known[_Turn] = Known(lambda turn: turn.inference.abandon())

    def loaded(self, original: Any) -> Any:
        """Wrap the constructor of a configuration or a model, the only place where a path is seen."""

        def learn(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            source = next(iter((*args[1:], *kwargs.values())), None)
            path = source if isinstance(source, str) else self._paths.of(source)
            if path is not None:
                self._paths.learn(args[0], path)

        return _after(original, learn)

    def configured(self, original: Any) -> Any:
        """Wrap ``set_search_options``."""

        def learn(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            size = kwargs.get("batch_size")
            if type(size) is int:
                self._batches.learn(args[0], size)

        return _after(original, learn)

    def made(self, original: Any) -> Any:
        """Wrap the constructor of a generator."""

        def learn(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            generator, model, params = (*args, *kwargs.values())[:3]
            device = getattr(model, "device_type", "")
            self._setups.learn(
                generator,
                _Setup(
                    self._paths.of(model),
                    "cpu" if device in {"CPU", "cpu"} else None,
                    self._batches.of(params) or 1,
                ),
            )

        return _after(original, learn)

    def prompted(self, original: Any) -> Any:
        """Wrap ``append_tokens``, which runs the model over the prompt."""

        @functools.wraps(original)
        def append_tokens(*args: Any, **kwargs: Any) -> Any:
            turn = guarded(self._turn, args)
            if turn is None:
                return original(*args, **kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                self._turns.take(args[0])
                turn.inference.fail(error)
                raise
            guarded(turn.prompt, next(iter((*args[1:], *kwargs.values())), None), args[0])
            return result

        return append_tokens

    def _turn(self, args: tuple[Any, ...]) -> _Turn | None:
        if not args:
            return None
        generator = args[0]
        turn = self._turns.of(generator)
        if turn is not None and not turn.has_begun:
            return turn
        if turn is not None:
            turn.leave()
        setup = self._setups.of(generator) or _Setup()
        series = self._recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, setup.path)
        inference = self._recorder.start(series, Layer.GENERATE)
        if inference is None:
            self._turns.take(generator)
            return None
        inference.batch_size = setup.sequences
        inference.device = setup.device
        return self._turns.learn(generator, _Turn(inference, setup.sequences))

    def stepped(self, original: Any) -> Any:
        """Wrap ``generate_next_token``."""

        @functools.wraps(original)
        def generate_next_token(*args: Any, **kwargs: Any) -> Any:
            turn = self._turns.of(args[0]) if args else None
            if turn is None:
                return original(*args, **kwargs)
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                self._turns.take(args[0])
                turn.inference.fail(error)
                raise
            guarded(self._step, turn, args[0])
            return result

        return generate_next_token

    def _step(self, turn: _Turn, generator: Any) -> None:
        turn.step()
        try:
            done = generator.is_done()
        except Exception:
            # Terminated from another thread in this moment. The next step will raise the same.
            return
        if done:
            self._turns.take(generator)
            turn.finish(generator)


def _after(original: Any, learn: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> Any:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if args:
            guarded(learn, args, kwargs)
        return result

    return call


def _count(generator: Any) -> int | None:
    """Ids in each sequence; versions before 0.10 do not say."""
    count = getattr(generator, "token_count", None)
    return None if count is None else count()


def _length(ids: Any) -> int | None:
    """Ids in one prompt: a list, an array of NumPy's, or a tensor of the framework's own."""
    if type(ids) is list:
        return len(ids)
    shape = getattr(ids, "shape", None)
    if callable(shape):
        shape = shape()
    return int(shape[-1]) if shape else None
