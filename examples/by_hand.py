"""Record inferences of a model that no instrumentation knows: a with block, a decorator, a start and an end.

::

    opentelemetry-instrument --traces_exporter console --metrics_exporter console python examples/by_hand.py
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import otel_aimon

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLIES = {"hello": "hello to you too", "bye": "see you soon"}


def chat(prompt: str) -> str:
    """A with block: token by token, with counts."""
    with otel_aimon.inference("chat", model="parrot") as call:
        words = []
        for word in REPLIES[prompt].split():
            words.append(word)
            call.token()  # The first one is the time to first token.
        call.usage(input_tokens=len(prompt.split()))
        call.finish_reason("stop")
    return " ".join(words)


@otel_aimon.monitor(operation="classify", model="is-it-long")
def is_long(text: str) -> bool:
    """A decorator: every call is a request; an exception is a failed one."""
    if not text:
        raise ValueError("there is no text")
    return len(text) > 10


@otel_aimon.monitor(operation="text_completion", model="speller", token_per_item=True)
def spell(word: str) -> Iterator[str]:
    """A generator: each item is one token; one that is not read to its end is cancelled."""
    yield from word


def embed(texts: list[str]) -> list[int]:
    """An explicit start and end, here on two threads."""
    call = otel_aimon.inference("embeddings", model="lengths", batch_size=len(texts)).start()
    vectors: list[int] = []

    def work() -> None:
        vectors.extend(len(text) for text in texts)
        call.end()

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    return vectors


def main() -> None:
    """Use every model, well and badly."""
    print(chat("hello"))
    print(is_long("a rather long text"))
    try:
        is_long("")
    except ValueError as error:
        print(f"refused: {error}")
    print("-".join(spell("word")))
    letters = spell("abandoned")
    print(next(letters))
    letters.close()
    print(embed(["one", "three"]))


if __name__ == "__main__":
    main()
