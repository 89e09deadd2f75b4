"""Models of sound and of images."""

from __future__ import annotations

from framework_cases.case import Case, constant


def diffusers():
    import torch

    from tests.support import tiny_diffusers

    pipeline = tiny_diffusers.unconditional()
    with torch.no_grad():
        return constant(type(pipeline), "__call__", lambda: pipeline(num_inference_steps=1))


CASES = {
    "diffusers": Case("diffusers", "a pipeline", diffusers),
}
