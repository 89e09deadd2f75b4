"""LMDeploy over an engine that runs no model; nobody instruments it in code.

Call: ``lmdeploy_app.py texts FOLDER``, or ``lmdeploy_app.py serve FOLDER PORT``.
"""

import logging
import sys
from pathlib import Path

from tests.support import tiny_lmdeploy


def texts(folder):
    from lmdeploy import GenerationConfig

    pipeline = tiny_lmdeploy.make_pipeline(folder)
    options = {"gen_config": GenerationConfig(max_new_tokens=4), "do_preprocess": False}
    pipeline("hello", **options)
    list(pipeline.stream_infer("hello", **options))
    logging.getLogger("lmdeploy").setLevel(logging.CRITICAL)
    pipeline.async_engine.engine.status = _failure()
    pipeline("hello", **options)
    pipeline.close()


def _failure():
    from lmdeploy.messages import ResponseType

    return ResponseType.INTERNAL_ENGINE_ERROR


def serve(folder, port):
    import lmdeploy
    from lmdeploy.serve.openai import api_server

    tiny_lmdeploy.prepare()
    api_server.serve(
        str(folder),
        backend="pytorch",
        backend_config=lmdeploy.PytorchEngineConfig(max_batch_size=4),
        server_name="127.0.0.1",
        server_port=int(port),
    )


# LMDeploy looks at the modules of processes that it starts.
if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
