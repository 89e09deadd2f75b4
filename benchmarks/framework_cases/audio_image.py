"""Models of sound and of images."""

from __future__ import annotations

from pathlib import Path

from framework_cases.case import Case, constant, temporary_folder


def diffusers():
    import torch

    from tests.support import tiny_diffusers

    pipeline = tiny_diffusers.unconditional()
    with torch.no_grad():
        return constant(type(pipeline), "__call__", lambda: pipeline(num_inference_steps=1))


def faster_whisper():
    """A transcription of one segment."""
    import functools

    import numpy as np
    from faster_whisper import WhisperModel

    from tests.support import tiny_ct2

    path = tiny_ct2.save_whisper(Path(temporary_folder()) / "whisper")
    model, sound = WhisperModel(path, device="cpu", compute_type="float32"), np.zeros(16000, np.float32)
    _, info = model.transcribe(sound, language="en")

    def segments():
        yield "hi"

    @functools.wraps(WhisperModel.transcribe)
    def transcribe(*_args, **_kwargs):
        return segments(), info

    WhisperModel.transcribe = transcribe

    def call():
        return list(model.transcribe(sound, language="en")[0])

    def armed():
        # A model is known from when it is made.
        model.__init__(path, device="cpu", compute_type="float32")

    call.armed = armed
    return call


CASES = {
    "diffusers": Case("diffusers", "a pipeline", diffusers),
    "faster_whisper": Case("faster_whisper", "`transcribe`, one segment", faster_whisper),
}
