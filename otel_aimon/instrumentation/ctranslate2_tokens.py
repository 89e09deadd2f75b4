"""How many tokens go into a call of CTranslate2, and how many come out.

They are counted in the lists that the caller passes and that the framework returns, and nowhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from otel_aimon.instrumentation.arguments import argument

_MAX_INPUT_LENGTH = 1024
"""Tokens of an example after which the framework cuts it off, unless the caller says otherwise."""


class Given(NamedTuple):
    """What the results of one example repeat, because the caller gave it.

    Attributes:
        tokens: Tokens that each result begins with.
        start: The first two tokens of the prompt, where results begin with the first of them too unless it is
            the model's special one: which that is, the framework does not say.
    """

    tokens: int = 0
    start: tuple[Any, ...] = ()


_NOTHING_GIVEN = Given()


class Inputs(NamedTuple):
    """What a call was given.

    Attributes:
        examples: Examples in the batch; None where they could not be counted.
        tokens: Tokens of all examples together, after the framework's cut.
        given: What the results repeat, an entry per example; None where nothing is known.
    """

    examples: int | None = None
    tokens: int | None = None
    given: tuple[Given, ...] | None = None

    @property
    def forced_steps(self) -> int:
        """Decoding steps before the first one that generates a token, in any example."""
        return min((each.tokens for each in self.given or ()), default=0)


def _lists(batch: Any) -> list[Any] | None:
    """The examples, where each is a list of tokens whose length costs nothing to know."""
    if type(batch) not in {list, tuple}:
        return None
    examples = list(batch)
    for each in examples:
        if type(each) not in {list, tuple}:
            return None
    return examples


def _tokens(batch: Any, longest: Any = 0) -> int | None:
    """Tokens of a batch, of which the framework takes at most ``longest`` of an example; 0 is no limit."""
    examples = _lists(batch)
    if examples is None or type(longest) is not int:
        return None
    return sum([min(len(each), longest) if longest else len(each) for each in examples])


def _rows(inputs: Any) -> int | None:
    if type(inputs) in {list, tuple}:
        return len(inputs)
    cls = type(inputs)
    if cls.__name__ == "StorageView" and cls.__module__.startswith("ctranslate2."):
        shape = inputs.shape
        return shape[0] if shape else None
    return None


def _longest(kwargs: dict[str, Any]) -> Any:
    return kwargs.get("max_input_length", _MAX_INPUT_LENGTH)


# --- what goes in ------------------------------------------------------------------------------


def generator_prompts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Generator.generate_batch``."""
    return _prompts(
        argument(args, kwargs, 1, "start_tokens"),
        kwargs,
        repeated=kwargs.get("include_prompt_in_result", True) is not False,
    )


def generator_stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Generator.generate_tokens``: a prompt or several, which it never repeats."""
    prompts = argument(args, kwargs, 1, "prompt")
    if type(prompts) in {list, tuple} and prompts and type(prompts[0]) is str:
        prompts = [prompts]
    return _prompts(prompts, kwargs, repeated=False)


def _prompts(prompts: Any, kwargs: dict[str, Any], *, repeated: bool) -> Inputs:
    examples = _lists(prompts)
    if examples is None:
        return Inputs(_rows(prompts))
    own, static = sum(map(len, examples)), kwargs.get("static_prompt")
    tokens: int | None = own
    if static is not None:
        tokens = own + len(static) * len(examples) if type(static) in {list, tuple} else None
    given = tuple([_given(each) if repeated else _NOTHING_GIVEN for each in examples])
    return Inputs(len(examples), tokens, given)


def _given(prompt: Any) -> Given:
    if not prompt:
        return Given()
    return Given(len(prompt) - 1, tuple(prompt[:2]))


def translator_sources(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Translator.translate_batch``: the sources, and the beginnings of the targets."""
    return _sources(
        argument(args, kwargs, 1, "source"), argument(args, kwargs, 2, "target_prefix"), _longest(kwargs)
    )


def translator_stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Translator.generate_tokens``, which takes one example."""
    prefix = argument(args, kwargs, 2, "target_prefix")
    return _sources(
        [argument(args, kwargs, 1, "source")], None if prefix is None else [prefix], _longest(kwargs)
    )


def _sources(sources: Any, prefixes: Any, longest: Any) -> Inputs:
    examples, tokens = _rows(sources), _tokens(sources, longest)
    if prefixes is None:
        return Inputs(examples, tokens, None if examples is None else (Given(),) * examples)
    if type(prefixes) not in {list, tuple}:
        return Inputs(examples)
    known = _lists([each if each is not None else () for each in prefixes])
    if known is None:
        return Inputs(examples)
    added = sum(map(len, known))
    return Inputs(
        examples, None if tokens is None else tokens + added, tuple(Given(len(each)) for each in known)
    )


def generator_scored(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Generator.score_batch``."""
    batch = argument(args, kwargs, 1, "tokens")
    return Inputs(_rows(batch), _tokens(batch, _longest(kwargs)))


def translator_scored(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Translator.score_batch``: sources and targets."""
    sources, targets = argument(args, kwargs, 1, "source"), argument(args, kwargs, 2, "target")
    counted = (_tokens(sources, _longest(kwargs)), _tokens(targets, _longest(kwargs)))
    tokens = None if None in counted else sum(each or 0 for each in counted)
    return Inputs(_rows(sources), tokens)


def forward_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``forward_batch``: tokens or ids in lists; an array says its shape, not its padding."""
    batch = argument(args, kwargs, 1, "inputs")
    return Inputs(_rows(batch), _tokens(batch))


def sound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of a model of sound, whose first argument is an array."""
    return Inputs(_rows(argument(args, kwargs, 1, "features")))


def whisper_prompts(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
    """Inputs of ``Whisper.generate``, whose results do not repeat the prompts."""
    prompts = argument(args, kwargs, 2, "prompts")
    examples = sound(args, kwargs).examples
    return Inputs(examples, _tokens(prompts), None if examples is None else (Given(),) * examples)


# --- what comes out ----------------------------------------------------------------------------


def generated(sequences: Any, given: Given) -> list[int] | None:
    """Tokens generated in each returned sequence of one example, without what the caller gave.

    Args:
        sequences: Lists of the framework's own.
        given: What they repeat.

    Returns:
        None where that is not certain.
    """
    lengths: list[int] = []
    for sequence in sequences:
        start = _begins_with_start(sequence, given.start)
        if start is None:
            return None
        # A sequence may end within what was given, at the length that the caller allows.
        lengths.append(max(len(sequence) - given.tokens - start, 0))
    return lengths


def _begins_with_start(sequence: Any, start: tuple[Any, ...]) -> bool | None:
    """Whether a sequence repeats the first token of the prompt, and not only those after it."""
    if not start or not sequence:
        return False
    first, second = start[0], start[1:]
    if second and second[0] == first:
        return None
    if sequence[0] == first:
        return True
    if not second or sequence[0] == second[0]:
        return False
    # A first token that the model does not know comes back as another one.
    return True if sequence[1:2] == list(second) else None
