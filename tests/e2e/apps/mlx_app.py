"""Texts that MLX LM generates; nobody instruments them in code.

Call: ``mlx_app.py texts FOLDER``, with the folder of a model.
"""

import contextlib
import sys
from pathlib import Path

from mlx_lm import batch_generate, generate, load, stream_generate


def texts(folder):
    model, tokenizer = load(str(folder))[:2]
    generate(model, tokenizer, "hello world", max_tokens=4)
    stream = stream_generate(model, tokenizer, "hello world", max_tokens=50)
    next(stream)
    stream.close()
    batch_generate(model, tokenizer, [[10, 11, 12], [13, 14]], max_tokens=[2, 4])

    def refuse(_logprobs):
        raise MemoryError

    with contextlib.suppress(MemoryError):
        generate(model, tokenizer, "hello world", sampler=refuse)


globals()[sys.argv[1]](Path(sys.argv[2]))
