"""Model servers, without their HTTP."""

from __future__ import annotations

from framework_cases.case import Case


def sglang():
    """A tokenizer manager whose scheduler has answered before it is asked."""
    from types import SimpleNamespace

    from tests.support import tiny_sglang

    tiny_sglang.prepare()
    from sglang.srt.managers import tokenizer_manager
    from sglang.srt.managers.io_struct import GenerateReqInput

    manager_class = tokenizer_manager.TokenizerManager
    lists = {
        "rids": ["1"], "finished_reasons": [{"type": "stop"}], "prompt_tokens": [1], "completion_tokens": [1],
        "cached_tokens": [0], "retraction_counts": [0],
    }  # fmt: skip
    outputs = SimpleNamespace(**lists)
    item = {"meta_info": {"finish_reason": {"type": "stop"}, "prompt_tokens": 1, "completion_tokens": 1}}

    async def generate_request(self, obj, request=None):
        async for each in self._wait_one_response(obj, request):
            yield each

    async def _wait_one_response(self, obj, _request):
        await self._handle_batch_output(outputs)
        yield item

    async def _handle_batch_output(self, recv_obj):
        pass

    for function in (generate_request, _wait_one_response, _handle_batch_output):
        setattr(manager_class, function.__name__, function)
    manager = object.__new__(manager_class)
    manager.rid_to_state = {"1": SimpleNamespace()}
    manager.served_model_name = "m"
    manager.server_args = SimpleNamespace(device="cpu")
    obj = GenerateReqInput(text="hi", rid="1")

    def call():
        try:
            manager.generate_request(obj).__anext__().send(None)
        except StopIteration as done:
            return done.value

    return call


CASES = {
    "sglang": Case("sglang", "`TokenizerManager.generate_request`", sglang),
}
