"""What a server serves without any framework: a model that is recorded by hand."""

import otel_aimon


@otel_aimon.monitor(operation="chat", model="by-hand", token_per_item=True)
def stream():
    yield from range(3)


def chat():
    list(stream())


PATHS = {"/chat": chat, "/health": lambda: None}
