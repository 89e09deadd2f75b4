"""Continuous batching before version 5, which crashes without a GPU: requests end all the same."""

from __future__ import annotations

import pytest
import transformers

if int(transformers.__version__.split(".")[0]) >= 5:
    pytest.skip("version 5 works on the CPU, see the other module", allow_module_level=True)

from tests.frameworks.hf_spans import expected, recorded
from tests.frameworks.tiny_hf import make_llama
from tests.support.telemetry import Telemetry, wait_until


def test_a_crash_before_the_first_batch_fails_what_was_submitted() -> None:
    model = make_llama()
    config = transformers.GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=-1)
    with Telemetry(frameworks=("transformers",)) as telemetry:
        manager = model.init_continuous_batching(generation_config=config)
        assert manager.add_request([40, 41]) == "req_0"
        assert [point.value for point in telemetry.metrics()["aimon.inference.queue.size"]] == [1]
        manager.start()
        wait_until(lambda: not manager.is_running())
        assert recorded(telemetry) == [expected(batch=1, error="TypeError")]
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [0]
