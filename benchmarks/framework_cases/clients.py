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


def ollama():
    import httpx
    from ollama import Client

    answer = {
        "model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1,
        "message": {"role": "assistant", "content": "hi"},
    }  # fmt: skip
    client = Client(host="http://server:11434", transport=_transport(httpx, answer))
    messages = [{"role": "user", "content": "hi"}]
    return constant(Client, "chat", lambda: client.chat(model="m", messages=messages))


def litellm():
    import litellm

    asked = {
        "model": "openai/m", "messages": [{"role": "user", "content": "hi"}], "mock_response": "hi",
        "api_base": "http://server:4000/v1",
    }  # fmt: skip
    return constant(litellm, "completion", lambda: litellm.completion(**asked))


def huggingface_hub():
    import json

    from huggingface_hub import InferenceClient

    message = {"role": "assistant", "content": "hi"}
    answer = {
        "id": "1", "created": 1, "model": "m", "system_fingerprint": "",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
    client = InferenceClient(base_url="http://server:8080/v1", api_key="none")
    client._inner_post = lambda *_args, **_kwargs: json.dumps(answer).encode()
    messages = [{"role": "user", "content": "hi"}]
    return constant(InferenceClient, "chat_completion", lambda: client.chat_completion(messages, model="m"))


def tritonclient():
    import json

    import numpy as np
    from tritonclient import http

    rows = http.InferInput("x", [2, 4], "FP32").set_data_from_numpy(np.ones((2, 4), np.float32))
    answer = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 4]}]}
    result = http.InferResult.from_response_body(json.dumps(answer).encode())
    return _triton(http, "server:8000", rows, result)


def tritonclient_grpc():
    import numpy as np
    from tritonclient import grpc

    rows = grpc.InferInput("x", [2, 4], "FP32").set_data_from_numpy(np.ones((2, 4), np.float32))
    answer = grpc.service_pb2.ModelInferResponse()
    answer.outputs.add(name="y", datatype="FP32", shape=[2, 4])
    return _triton(grpc, "server:8001", rows, grpc.InferResult(answer))


def _triton(module, url, rows, result):
    def infer(self, model_name, inputs, model_version=""):
        return result

    module.InferenceServerClient.infer = infer
    made = [module.InferenceServerClient(url)]

    def armed():
        # Whom it asks is known from when a client is made.
        made[0] = module.InferenceServerClient(url)

    def call():
        return made[0].infer("m", [rows])

    call.armed = armed
    return call


def _answering(httpx, answer):
    return httpx.Client(transport=_transport(httpx, answer))


def _transport(httpx, answer):
    return httpx.MockTransport(lambda _request: httpx.Response(200, json=answer))


CASES = {
    "openai": Case("openai", "`chat.completions.create`", openai),
    "anthropic": Case("anthropic", "`messages.create`", anthropic),
    "ollama": Case("ollama", "`chat`", ollama),
    "litellm": Case("litellm", "`completion`", litellm),
    "huggingface_hub": Case("huggingface_hub", "`chat_completion`", huggingface_hub),
    "tritonclient": Case("tritonclient", "`http.InferenceServerClient.infer`", tritonclient),
    "tritonclient, grpc": Case("tritonclient", "`grpc.InferenceServerClient.infer`", tritonclient_grpc),
}
