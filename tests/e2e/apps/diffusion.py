"""Requests to diffusion pipelines; nobody instruments them in code.

Call: ``diffusion.py stable_diffusion FOLDER``, with a folder for the files that a tokenizer needs.
"""

import contextlib
import sys
from pathlib import Path

from diffusers import DiffusionPipeline, StableDiffusionPipeline

from tests.support import tiny_diffusers


class Sketch(StableDiffusionPipeline):
    """A pipeline of the application's own."""

    def __call__(self, text):
        return super().__call__(text, num_inference_steps=2, output_type="np")


def stable_diffusion(folder):
    tiny_diffusers.stable_diffusion(folder).save_pretrained(folder / "tiny-sd")
    pipeline = tiny_diffusers.silent(DiffusionPipeline.from_pretrained(str(folder / "tiny-sd")))
    options = {"num_inference_steps": 3, "output_type": "np"}

    def stop_after_one(pipeline, _step, _timestep, kwargs):
        pipeline._interrupt = True
        return kwargs

    def interrupt(*_):
        raise KeyboardInterrupt

    def fail(*_):
        raise LookupError

    pipeline(["a cat", "a dog"], num_images_per_prompt=2, **options)
    # Longer than the text encoder takes: it is cut off.
    pipeline("a cat " * 100, **options)
    with contextlib.suppress(ValueError):
        pipeline(17, **options)
    pipeline("a cat", callback_on_step_end=stop_after_one, **options)
    with contextlib.suppress(KeyboardInterrupt):
        pipeline("a cat", callback_on_step_end=interrupt, **options)
    with contextlib.suppress(LookupError):
        pipeline("a cat", callback_on_step_end=fail, **options)
    Sketch(**pipeline.components, requires_safety_checker=False)("a cat")


globals()[sys.argv[1]](Path(sys.argv[2]))
