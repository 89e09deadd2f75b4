"""Clients of remote models, whose answers are constants too."""

from __future__ import annotations

from framework_cases.case import Case, constant


def openai():
    from openai import OpenAI, _base_client
    from openai.resources.chat.completions import Completions

    message = {"role": "assistant", "content": "hi"}
    answer = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
    client = OpenAI(
        api_key="none", base_url="http://server/v1", http_client=_answering(_base_client.httpx, answer)
    )
    messages = [{"role": "user", "content": "hi"}]
    return constant(
        Completions, "create", lambda: client.chat.completions.create(model="m", messages=messages)
    )


def anthropic():
    from anthropic import Anthropic, _base_client
    from anthropic.resources.messages import Messages

    answer = {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    client = Anthropic(
        api_key="none", base_url="http://server", http_client=_answering(_base_client.httpx2, answer)
    )
    messages = [{"role": "user", "content": "hi"}]
    return constant(
        Messages, "create", lambda: client.messages.create(model="m", max_tokens=1, messages=messages)
    )


def _answering(httpx, answer):
    return httpx.Client(transport=httpx.MockTransport(lambda _request: httpx.Response(200, json=answer)))


CASES = {
    "openai": Case("openai", "`chat.completions.create`", openai),
    "anthropic": Case("anthropic", "`messages.create`", anthropic),
}
