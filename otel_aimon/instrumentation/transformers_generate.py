"""``generate``: one request per call, with its tokens and their times.

All is read where ``generate`` works it out for itself, in methods that it calls once (the length of
the prompt) or once a step (whether sequences are left). So no argument of the user's is changed,
every decoding method is covered, and no tensor is read that is not on the CPU: reading one would
make the host wait for the device.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, create_key, detach, get_current, set_value

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.transformers_model import FRAMEWORK, device_name, model_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

_DECODING = create_key("otel-aimon-decoding")
"""Under this key the context carries the generation whose steps are being timed."""

_PROMPT = ("generation_config", "model_input_name", "input_ids_length", "inputs_tensor")


def hook_generate(hooks: Hooks, module: Any) -> None:
    """Hook ``GenerationMixin``.

    Args:
        hooks: Of Transformers.
        module: ``transformers.generation.utils``.
    """
    mixin = module.GenerationMixin
    hooks.wrap(mixin, "generate", functools.partial(_observe_generate, hooks, module), ("inputs",))
    hooks.wrap(mixin, "_prepare_generated_length", _observe_prompt, _PROMPT)
    hooks.wrap(mixin, "_has_unfinished_sequences", functools.partial(_observe_steps, module))


def hook_whisper(hooks: Hooks, module: Any) -> None:
    """Hook Whisper's own ``generate``, which generates once per window of sound, and once per retry.

    Args:
        hooks: Of Transformers.
        module: ``transformers.models.whisper.generation_whisper``.
    """

    def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        return _start(hooks.recorder, args[0], Layer.PIPELINE)

    hooks.wrap(module.WhisperGenerationMixin, "generate", lambda original: observed(original, begin))


class _Decoding:
    """A running ``generate``: what it has worked out so far.

    Attributes:
        inference: Its request, or stage.
        mask: The attention mask that the user passed, until the prompt is counted.
        prompt_length: Ids before the first new one, in each sequence; None while unknown.
        max_length: Length at which the framework stops a sequence.
        min_length: Length before which the framework stops none.
        eos: Ids that end a sequence, a tensor; None when there are none.
        cut_short: Something else may end single sequences: stop strings, criteria of the user.
        time_limit: A clock may end all sequences at once.
        asked: The loop has asked whether it has to go on; the first time there is no token yet.
    """

    __slots__ = (
        "asked",
        "cut_short",
        "eos",
        "inference",
        "mask",
        "max_length",
        "min_length",
        "prompt_length",
        "time_limit",
    )

    def __init__(self, inference: Inference, mask: Any, *, cut_short: bool) -> None:
        self.inference = inference
        self.mask = mask
        self.prompt_length: int | None = None
        self.max_length: int | None = None
        self.min_length = 0
        self.eos: Any = None
        self.cut_short = cut_short
        self.time_limit = False
        self.asked = False

    def read_prompt(self, model: Any, config: Any, known: dict[str, Any]) -> None:
        """Read the prompt, once ``generate`` has prepared it.

        Args:
            model: The model.
            config: The generation's own configuration, with all defaults filled in.
            known: Arguments of ``_prepare_generated_length``.
        """
        self.prompt_length = known["input_ids_length"]
        self.max_length = config.max_length
        self.min_length = config.min_length or 0
        self.eos = config._eos_token_tensor
        self.cut_short = self.cut_short or config.stop_strings is not None
        self.time_limit = config.max_time is not None
        prompts = known["inputs_tensor"]
        self.inference.batch_size = prompts.shape[0]
        if known["model_input_name"] == "input_ids" and prompts.dim() == 2:
            self.inference.input_tokens = _count_prompt(
                prompts, self.mask, config, encoder=model.config.is_encoder_decoder
            )
        self.mask = None

    def step(self) -> None:
        """Note that the loop asks whether it has to go on: a step is done, unless it is the first time.

        The loop asks when the host knows the step's outcome, on any device: TTFT and the time per
        token are those of tokens that exist, not of kernels that were launched.
        """
        if self.asked:
            self.inference.chunk()
        self.asked = True


def _running_decoding() -> _Decoding | None:
    found = get_current().get(_DECODING)
    return found if isinstance(found, _Decoding) and not found.inference.end_ns else None


# --- the call ----------------------------------------------------------------------------------


def _observe_generate(hooks: Hooks, module: Any, original: Any) -> Any:
    recorder = hooks.recorder
    positions = {name: index for index, name in enumerate(inspect.signature(original).parameters)}
    is_compiling = module.torch.compiler.is_compiling

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        model = _argument(positions, args, kwargs, "self")
        inference = _start(recorder, model, Layer.GENERATE)
        if inference is None:
            return None
        criteria = _argument(positions, args, kwargs, "stopping_criteria")
        decoding = _Decoding(inference, kwargs.get("attention_mask"), cut_short=criteria is not None)
        inference.context = set_value(_DECODING, decoding, inference.context)
        return inference

    def finish(inference: Inference, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        # The user's own decoding loop may return anything.
        if _argument(positions, args, kwargs, "custom_generate") is None:
            _count_output(inference, module, result)

    watched = observed(original, begin, finish)

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(*args, **kwargs)
        if _running_decoding() is None:
            return watched(*args, **kwargs)
        # A generate inside a generate, such as the draft model's: its steps are not the request's.
        token = attach(set_value(_DECODING, None))
        try:
            return original(*args, **kwargs)
        finally:
            detach(token)

    return generate


def _start(recorder: Recorder, model: Any, layer: Layer) -> Inference | None:
    series = recorder.series(FRAMEWORK, semconv.TEXT_COMPLETION, model_name(model))
    inference = recorder.start(series, layer)
    if inference is not None:
        inference.device = device_name(model)
    return inference


def _argument(positions: dict[str, int], args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    if name in kwargs:
        return kwargs[name]
    index = positions.get(name, len(args))
    return args[index] if index < len(args) else None


# --- the prompt --------------------------------------------------------------------------------


def _observe_prompt(original: Any) -> Any:
    @functools.wraps(original)
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(self, *args, **kwargs)
        decoding = _running_decoding()
        if decoding is not None and decoding.prompt_length is None and not args:
            guarded(decoding.read_prompt, self, config, kwargs)
        return config

    return prepare


def _count_prompt(prompts: Any, mask: Any, config: Any, *, encoder: bool) -> int | None:
    """Tokens of the prompts without padding, or None when that takes a wait for the device.

    Args:
        prompts: Token ids, one row per prompt.
        mask: The user's attention mask, if any.
        config: The generation's configuration.
        encoder: The prompts go to an encoder, which masks nothing by itself.
    """
    rows, columns = prompts.shape
    # Versions that look themselves whether anything is masked say here that nothing is.
    unmasked = getattr(config, "_mask_length", None) is not None or (encoder and mask is None)
    if unmasked:
        return int(rows * columns)
    if mask is not None:
        return _count_mask(mask, rows, columns)
    if prompts.device.type != "cpu":
        return None if rows > 1 or _looks_at_masks() else int(columns)
    pad = config._pad_token_tensor
    eos = config._eos_token_tensor
    if pad is None or (eos is not None and bool((eos == pad).any())):
        return int(rows * columns)
    # The framework masks pad ids when nobody passes a mask.
    return int((prompts != pad).sum())


def _count_mask(mask: Any, rows: int, columns: int) -> int | None:
    if tuple(mask.shape) != (rows, columns):
        return None
    if mask.device.type == "cpu":
        return int(mask.count_nonzero())
    return None if rows > 1 or _looks_at_masks() else columns


@functools.cache
def _looks_at_masks() -> bool:
    """This version looks whether a mask masks anything; if it does, the number is on the device."""
    from transformers import GenerationConfig

    return "_mask_length" in getattr(GenerationConfig, "__annotations__", {})


# --- the steps ---------------------------------------------------------------------------------


def _observe_steps(module: Any, original: Any) -> Any:
    is_compiling = module.torch.compiler.is_compiling
    # Here the host does not wait for the step: it asks before it knows the outcome.
    asks_early = {"mps"} if hasattr(module, "DeferredStopCheck") else set()

    @functools.wraps(original)
    def has_unfinished_sequences(*args: Any, **kwargs: Any) -> Any:
        unfinished = original(*args, **kwargs)
        if not is_compiling():
            decoding = _running_decoding()
            if decoding is not None and decoding.inference.device not in asks_early:
                decoding.step()
        return unfinished

    return has_unfinished_sequences


# --- the output --------------------------------------------------------------------------------


def _count_output(inference: Inference, module: Any, result: Any) -> None:
    decoding = None if inference.context is None else inference.context.get(_DECODING)
    sequences = result if isinstance(result, module.torch.Tensor) else getattr(result, "sequences", None)
    if not isinstance(decoding, _Decoding) or decoding.prompt_length is None:
        return
    if not isinstance(sequences, module.torch.Tensor) or sequences.dim() != 2:
        return
    rows, columns = sequences.shape
    steps = columns - decoding.prompt_length
    if steps < 0:
        return
    inference.steps = steps
    ends = _ends(module.torch, sequences[:, decoding.prompt_length :], decoding.eos)
    inference.output_tokens = _count_tokens(decoding, rows, columns, ends)
    inference.finish_reasons = _finish_reasons(decoding, rows, columns, ends)


def _ends(torch: Any, generated: Any, eos: Any) -> list[int] | None:
    """Tokens up to and with the first end-of-sequence id of each row, 0 where there is none.

    None when that takes a wait for the device.
    """
    rows, columns = generated.shape
    if eos is None or not columns:
        return [0] * rows
    if generated.device.type != "cpu" or eos.device.type != "cpu":
        return None
    if rows == 1:
        # A sequence alone ends with its end id: there is nobody to wait for.
        return [columns if int(generated[0, -1]) in eos.tolist() else 0]
    is_end = torch.isin(generated, eos)
    first = is_end.to(torch.uint8).argmax(dim=1) + 1
    ends: list[int] = (first * is_end.any(dim=1)).tolist()
    return ends


def _count_tokens(decoding: _Decoding, rows: int, columns: int, ends: list[int] | None) -> int | None:
    """Tokens generated, without the padding behind sequences that ended early."""
    steps = columns - (decoding.prompt_length or 0)
    if rows == 1 or decoding.eos is None:
        # One row is as long as the result; without end ids nothing is padded.
        return rows * steps
    if decoding.cut_short and (ends is None or 0 in ends):
        return None
    if ends is None:
        return rows * steps if columns <= decoding.min_length else None
    return sum(end or steps for end in ends)


def _finish_reasons(
    decoding: _Decoding, rows: int, columns: int, ends: list[int] | None
) -> tuple[str, ...] | None:
    """``stop`` or ``length`` for each sequence; None unless all are certain."""
    full = decoding.max_length is not None and columns >= decoding.max_length
    if ends is None:
        only_eos = not full and not decoding.cut_short and not decoding.time_limit
        return ("stop",) if rows == 1 and only_eos else None
    if 0 in ends and (not full or (decoding.cut_short and rows > 1)):
        return None
    return tuple("stop" if end else "length" for end in ends)
