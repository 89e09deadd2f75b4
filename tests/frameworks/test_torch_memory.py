"""What torch's allocators are asked is there, and asking a torch that uses no device initialises none."""

from __future__ import annotations

import torch

from otel_aimon.resources.frameworks import FrameworkMemorySource


def test_real_torch_on_a_cpu_has_none_and_stays_uninitialised() -> None:
    torch.ones(10).sum()
    assert FrameworkMemorySource().read() == ()
    assert not torch.cuda.is_initialized()
    assert not torch.xpu.is_initialized()


def test_the_answer_of_real_torch_has_the_shape_that_is_read() -> None:
    # As far as it can be seen without a GPU: the functions are there, and answer nothing uninitialised.
    for backend in (torch.cuda, torch.xpu):
        assert backend.memory_stats_as_nested_dict(0) == {}
        assert backend.device_count() == 0
