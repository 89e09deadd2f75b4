"""Texts of TensorRT-LLM's interface; nobody instruments them in code.

Call: ``tensorrt_llm_app.py texts FOLDER``.
"""

import contextlib
import sys
from pathlib import Path

from tests.support import published

sys.path.insert(0, str(Path(published.__file__).parent))

from tensorrt_llm.llmapi import LLM, SamplingParams


def texts(folder):
    llm = LLM(str(folder / "tiny"), longest=9)
    llm.generate(["ab", "c"])
    for _ in llm.generate_async("abc", streaming=True):
        pass
    stream = llm.generate_async("abc", SamplingParams(max_tokens=500), streaming=True)
    next(stream)
    stream.abort()
    with contextlib.suppress(ValueError):
        llm.generate("longer than nine")


globals()[sys.argv[1]](Path(sys.argv[2]))
