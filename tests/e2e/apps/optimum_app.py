"""Requests to models that ONNX Runtime runs for Transformers; nobody instruments them in code.

Call: ``optimum_app.py models FOLDER``, with a folder for the models.
"""

import contextlib
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import transformers

from tests.frameworks.tiny_hf import make_tokenizer
from tests.support.tiny_optimum import exported


class Dropped(transformers.generation.streamers.BaseStreamer):
    """Takes the prompt, and has gone when the first token comes."""

    asked = False

    def put(self, value):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def end(self):
        """Nothing."""


def models(folder):
    tokenizer = make_tokenizer()
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}

    def encoded(*texts, **more):
        return tokenizer(list(texts), return_tensors="pt", padding=True, **more)

    llama, t5, classifier = (exported(folder, name) for name in ("llama", "t5", "classifier"))
    llama.generate(**encoded("hello"), **options)
    with contextlib.suppress(KeyboardInterrupt):
        llama.generate(**encoded("hello"), streamer=Dropped(), **options)
    with contextlib.suppress(ValueError):
        llama.generate(**encoded("hello"), max_new_tokens=-1)
    t5.generate(**encoded("hello"), **options)
    classifier(**encoded("hello", "one", return_token_type_ids=True))
    # Longer than the model has positions for.
    with contextlib.suppress(Exception):
        classifier(**encoded("hello " * 2000, return_token_type_ids=True))
    transformers.pipeline("text-classification", classifier, tokenizer=tokenizer)("hello")


globals()[sys.argv[1]](Path(sys.argv[2]))
