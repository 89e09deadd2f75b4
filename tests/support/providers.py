"""A server that answers as remote providers of models do: real HTTP, constant answers.

What is asked for decides: the model ``overloaded`` gets the status 429, ``broken`` a stream that breaks off.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}
RESPONSE_USAGE = {
    "input_tokens": 7,
    "output_tokens": 3,
    "total_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 0},
}
MESSAGE_USAGE = {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 2}
SECRET = "do not tell"
"""Content of every answer."""


class Handler(BaseHTTPRequestHandler):
    """Answers a request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0]
        self.server.asked.append((path, dict(self.headers)))  # type: ignore[attr-defined]
        failures = self.server.failures  # type: ignore[attr-defined]
        if failures:
            self._json({"error": {"message": SECRET}}, failures.pop())
        elif asked.get("model") == "overloaded":
            self._json({"error": {"message": SECRET, "type": "rate_limit_error"}}, 429)
        else:
            answer = next((make for end, make in ANSWERS.items() if path.endswith(end)), None)
            if answer is None:
                self._json({"error": {"message": path}}, 404)
            else:
                answer(self, asked)

    def _json(self, answer: Any, status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, pieces: list[str], kind: str = "text/event-stream", *, breaks: bool = False) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces[:2] if breaks else pieces:
            data = piece.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        if breaks:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def chat(self, asked: Any) -> None:
        model = f"{asked['model']}-2026"
        base = {"id": "c1", "created": 1, "model": model}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": SECRET}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json({**base, "object": "chat.completion", "choices": [choice], "usage": USAGE})
            return

        def chunk(delta: Any, reason: str | None = None) -> str:
            choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
            return _event({**base, "object": "chat.completion.chunk", "choices": choices})

        pieces = [chunk({"role": "assistant", "content": ""}), chunk({"content": SECRET}), chunk({}, "stop")]
        if (asked.get("stream_options") or {}).get("include_usage"):
            pieces.append(_event({**base, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}))
        self._stream([*pieces, "data: [DONE]\n\n"], breaks=asked["model"] == "broken")

    def completion(self, asked: Any) -> None:
        choice = {"index": 0, "text": SECRET, "finish_reason": "length", "logprobs": None}
        base = {"id": "t1", "object": "text_completion", "created": 1, "model": asked["model"]}
        self._json({**base, "choices": [choice], "usage": USAGE})

    def response(self, asked: Any) -> None:
        def response(status: str, usage: Any, **further: Any) -> Any:
            return {
                "id": "r1", "object": "response", "created_at": 1, "model": asked["model"], "status": status,
                "output": [], "parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "usage": usage,
                **further,
            }  # fmt: skip

        if not asked.get("stream"):
            self._json(
                response("incomplete", RESPONSE_USAGE, incomplete_details={"reason": "max_output_tokens"})
            )
            return
        events = [
            {"type": "response.created", "sequence_number": 0, "response": response("in_progress", None)},
            {
                "type": "response.completed",
                "sequence_number": 1,
                "response": response("completed", RESPONSE_USAGE),
            },
        ]
        self._stream([_event(event, event["type"]) for event in events])

    def embedding(self, asked: Any) -> None:
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        row = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
        self._json({"object": "list", "model": asked["model"], "data": [row], "usage": usage})

    def message(self, asked: Any) -> None:
        message = {
            "id": "m1", "type": "message", "role": "assistant", "model": f"{asked['model']}-2026",
            "content": [{"type": "text", "text": SECRET}], "stop_reason": "end_turn", "stop_sequence": None,
            "usage": MESSAGE_USAGE,
        }  # fmt: skip
        if not asked.get("stream"):
            self._json(message)
            return
        begun = {
            **message,
            "content": [],
            "stop_reason": None,
            "usage": {**MESSAGE_USAGE, "output_tokens": 1},
        }
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": SECRET}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ]
        self._stream([_event(event, event["type"]) for event in events], breaks=asked["model"] == "broken")

    def ollama(self, asked: Any) -> None:
        piece = {
            "model": asked["model"], "created_at": "2026-01-01T00:00:00Z", "done": False, "response": SECRET,
            "message": {"role": "assistant", "content": SECRET},
        }  # fmt: skip
        counts = {
            "done": True, "done_reason": "stop", "total_duration": 9, "load_duration": 1, "prompt_eval_count": 7,
            "prompt_eval_duration": 3, "eval_count": 3, "eval_duration": 5,
        }  # fmt: skip
        if asked.get("stream"):
            pieces = [json.dumps(each) + "\n" for each in (piece, piece, {**piece, **counts})]
            self._stream(pieces, "application/x-ndjson")
        else:
            self._json({**piece, **counts})

    def ollama_embedding(self, asked: Any) -> None:
        self._json({"model": asked["model"], "embeddings": [[0.1, 0.2]], "prompt_eval_count": 7})

    def log_message(self, *_arguments: Any) -> None:
        """Nothing."""


ANSWERS = {
    "/chat/completions": Handler.chat,
    "/completions": Handler.completion,
    "/responses": Handler.response,
    "/embeddings": Handler.embedding,
    "/messages": Handler.message,
    "/api/chat": Handler.ollama,
    "/api/generate": Handler.ollama,
    "/api/embed": Handler.ollama_embedding,
}


def _event(data: Any, name: str | None = None) -> str:
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: Any) -> None:
        """Clients may hang up."""


class Provider:
    """A running server.

    Attributes:
        port: Where it listens.
        asked: Path and headers of each request that came.
        failures: Statuses of the next answers, the last first.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.port = server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.failures: list[int] = []
        server.asked, server.failures = self.asked, self.failures  # type: ignore[attr-defined]


@contextmanager
def provider() -> Iterator[Provider]:
    """Run a server."""
    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Provider(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
