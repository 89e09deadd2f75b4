"""A WSGI application; its module serves one request while it is imported: with ``--preload`` in the master.

``SERVED`` names the module with the models. The answer is the process that gave it.
"""

import importlib
import os

import otel_aimon

PATHS = importlib.import_module(os.environ["SERVED"]).PATHS

with otel_aimon.inference("warmup", model="wsgi"):
    pass


def app(environ, start_response):
    PATHS[environ["PATH_INFO"]]()
    start_response("200 OK", [("connection", "close")])
    return [str(os.getpid()).encode()]
