"""Asks a remote model through every client that is installed; the server's port is the argument."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys

URL = f"http://127.0.0.1:{sys.argv[1]}"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "the quick brown fox"}]}


def ask_openai() -> None:
    """A chat, a stream, a refusal, a stream that is left, a task that is cancelled."""
    import openai

    with openai.OpenAI(base_url=f"{URL}/v1", api_key="key", max_retries=0) as client:
        create = client.chat.completions.create
        create(**ASKED)
        list(create(**ASKED, stream=True, stream_options={"include_usage": True}))
        with contextlib.suppress(openai.RateLimitError):
            create(**{**ASKED, "model": "overloaded"})
        with create(**ASKED, stream=True) as stream:
            next(stream)
    asyncio.run(cancel())


async def cancel() -> None:
    """Ask, and do not wait for the answer."""
    import openai

    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="key") as client:
        task = asyncio.create_task(client.chat.completions.create(**ASKED))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def ask_anthropic() -> None:
    """A message."""
    import anthropic

    with anthropic.Anthropic(base_url=URL, api_key="key", max_retries=0) as client:
        client.messages.create(**ASKED, max_tokens=5)


def ask_ollama() -> None:
    """A chat, by the function of the package's own client."""
    import ollama

    ollama.Client(host=URL).chat(**ASKED)
    gc.collect()


def ask_litellm() -> None:
    """A completion, which goes through OpenAI's client."""
    import litellm

    litellm.completion(**{**ASKED, "model": "openai/m"}, api_base=f"{URL}/v1", api_key="key", num_retries=0)


def ask_huggingface_hub() -> None:
    """A chat."""
    from huggingface_hub import InferenceClient

    InferenceClient(base_url=f"{URL}/v1", api_key="key").chat_completion(ASKED["messages"], model="m")


for ask in (ask_openai, ask_anthropic, ask_ollama, ask_litellm, ask_huggingface_hub):
    ask()
