"""Executions of TensorRT's bindings over libraries that compute nothing; nobody instruments them in code.

Call: ``tensorrt_app.py executions FOLDER``, with a folder for the libraries.
"""

import sys
from pathlib import Path

from tests.support import tiny_tensorrt


def executions(folder):
    context = tiny_tensorrt.make_context(tiny_tensorrt.load(folder))
    assert context.execute_v2([4096, 8192])
    assert not context.execute_v2([0, 8192])
    assert context.execute_async_v3(7)


globals()[sys.argv[1]](Path(sys.argv[2]))
