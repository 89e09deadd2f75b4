"""A WSGI application whose module makes one request while it is imported: with ``--preload`` in the master."""

import os

import otel_aimon


@otel_aimon.monitor(operation="classify", model="wsgi")
def classify() -> str:
    return "a class"


with otel_aimon.inference("warmup", model="wsgi"):
    pass


def app(environ, start_response):
    if environ["PATH_INFO"] != "/health":
        classify()
    start_response("200 OK", [("connection", "close"), ("x-pid", str(os.getpid()))])
    return [b"ok"]
