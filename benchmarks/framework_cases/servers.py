"""Model servers, without their HTTP."""

from __future__ import annotations

from framework_cases.case import Case, constant, done

HEADERS = {"host": "server", "content-type": "application/json", "content-length": "40", "accept": "*/*"}


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


def lmdeploy():
    """A front end whose engine has answered before it is asked."""
    from types import SimpleNamespace

    from lmdeploy.serve.core.async_engine import AsyncEngine, GenOut
    from lmdeploy.serve.managers import Session, SessionManager

    manager = SessionManager()
    request = SimpleNamespace(session=Session(1, manager), input_token_len=1)
    item = GenOut("", 1, 1, "stop")

    async def preprocess(self, messages, session_id, input_ids=None, do_preprocess=True):
        return request

    async def generate(self, request, stream_response=True):
        yield item

    for function in (preprocess, generate):
        setattr(AsyncEngine, function.__name__, function)
    engine = object.__new__(AsyncEngine)
    engine.model_name = "m"
    engine.backend_config = SimpleNamespace(device_type="cuda")

    def result(awaitable):
        try:
            awaitable.send(None)
        except StopIteration as done:
            return done.value
        except StopAsyncIteration:
            return None

    def call():
        stream = engine.generate(result(engine.preprocess(None, 1)))
        found = result(stream.__anext__())
        assert result(stream.__anext__()) is None
        return found

    return call


def vllm():
    """An engine whose first step answers a request."""
    import time
    from types import SimpleNamespace

    from tests.support import tiny_vllm

    tiny_vllm.prepare()
    from vllm import SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.engine.output_processor import OutputProcessor

    stats = SimpleNamespace(
        arrival_time=time.time(), first_token_latency=0.001, queued_ts=1.0, scheduled_ts=1.1, first_token_ts=1.2,
        last_token_ts=1.3,
    )  # fmt: skip
    state = SimpleNamespace(
        request_id="1", request_index=0, is_prefilling=False, prompt_len=4, num_cached_tokens=0, stats=stats,
        detokenizer=SimpleNamespace(num_output_tokens=lambda: 4),
    )  # fmt: skip

    def take_in(self, request):
        self.request_states[request.request_id] = state

    def _update_stats_from_finished(self, req_state, finish_reason, iteration_stats):
        pass

    def add_request(self, request_id, prompt, params):
        self.output_processor.add_request(state)

    def step(self):
        processor = self.output_processor
        processor._update_stats_from_finished(processor.request_states.pop("1"), "stop", None)

    OutputProcessor.add_request = take_in
    OutputProcessor._update_stats_from_finished = _update_stats_from_finished
    LLMEngine.add_request, LLMEngine.step = add_request, step
    engine = object.__new__(LLMEngine)
    engine.dp_group, engine.external_launcher_dp = None, False
    engine.vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(served_model_name="m"), device_config=SimpleNamespace(device_type="cpu")
    )
    engine.output_processor = object.__new__(OutputProcessor)
    engine.output_processor.request_states = {}
    params = SamplingParams(max_tokens=4)

    def call():
        engine.add_request("1", "hi", params)
        engine.step()

    return call


def litserve():
    """A worker that steps through its loop, a request at each step."""
    import time
    import uuid
    from types import SimpleNamespace

    from litserve import LitAPI
    from litserve.callbacks import CallbackRunner
    from litserve.loops.simple_loops import SingleLoop
    from litserve.utils import LitAPIStatus, LoopResponseType

    from otel_aimon.instrumentation.litserve_http import Leavers

    class Model(LitAPI):
        def setup(self, device):
            self.device = device

        def predict(self, x):
            return x

    def run_single_loop(self, lit_api, request_queue, transport, callback_runner, lit_spec=None):
        while True:
            response_queue_id, uid, _, payload = request_queue.get(timeout=1.0)
            for status in (LitAPIStatus.START, LitAPIStatus.OK):
                self.put_response(
                    transport=transport, response_queue_id=response_queue_id, uid=uid, response_data=payload,
                    status=status, response_type=LoopResponseType.REGULAR,
                )  # fmt: skip
            yield

    SingleLoop.run_single_loop = run_single_loop
    model, loop, runner, item = (
        Model(),
        SingleLoop(),
        CallbackRunner(),
        (0, str(uuid.uuid4()), time.monotonic(), 1),
    )
    model.setup("cpu")
    # What the HTTP processes share with a worker that they start.
    runner._otel_aimon_leavers = Leavers()
    requests = SimpleNamespace(get=lambda **_options: item)
    transport = SimpleNamespace(send=lambda _item, consumer_id: None)
    steps = [None]

    def begin():
        steps[0] = loop.run_single_loop(model, requests, transport, runner)

    def call():
        next(steps[0])

    begin()
    call.armed = call.disarmed = begin
    return call


def bentoml():
    """A worker that answers a request with what its service returned at once."""
    from types import SimpleNamespace

    from _bentoml_impl.server.app import ServiceAppFactory
    from _bentoml_sdk.io_models import IOMixin
    from starlette.responses import JSONResponse

    from otel_aimon.instrumentation.bentoml import _Outermost

    response = JSONResponse(1)

    async def api_endpoint(self, name, request):
        output = await self._to_thread(len, "")
        return await IOMixin.to_http_response(output, None)

    async def _to_thread(self, func, *args, **kwargs):
        return func(*args, **kwargs)

    async def to_http_response(cls, obj, serde):
        return response

    ServiceAppFactory.api_endpoint = api_endpoint
    ServiceAppFactory._to_thread = _to_thread
    IOMixin.to_http_response = classmethod(to_http_response)
    factory = object.__new__(ServiceAppFactory)
    factory.service = SimpleNamespace(name="Model")
    scope = {"headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()]}
    made = [None]

    async def app(scope, receive, send):
        await factory.api_endpoint("predict", None)

    def armed():
        # As it is where BentoML exports no traces itself.
        made[0] = _Outermost(app)

    def disarmed():
        made[0] = app

    def call():
        return done(made[0](scope, None, None))

    disarmed()
    call.armed, call.disarmed = armed, disarmed
    return call


def ray_serve():
    """A replica that takes a call which was submitted on another node."""
    from contextlib import asynccontextmanager
    from types import SimpleNamespace

    from ray.serve._private import replica as module
    from ray.serve._private.common import RequestMetadata

    from otel_aimon.instrumentation import ray_serve_calls as ours

    @asynccontextmanager
    async def _start_request(self, request_metadata):
        yield

    async def call_user_method(self, request_metadata, request_args, request_kwargs):
        return 1

    module.Replica._start_request = _start_request
    module.UserCallableWrapper.call_user_method = call_user_method
    # There is no cluster to ask.
    ours._node = lambda: "here"
    replica, user = object.__new__(module.Replica), object.__new__(module.UserCallableWrapper)
    replica._deployment_id = SimpleNamespace(name="Model")
    metadata = RequestMetadata("1", "1", call_method="predict")
    vars(metadata)[ours._SUBMISSION] = ("there", 1, {})

    async def handle():
        async with replica._start_request(metadata):
            return await user.call_user_method(metadata, (), {})

    return lambda: done(handle())


def kserve():
    from kserve import Model

    class Same(Model):
        def predict(self, payload, headers=None, response_headers=None):
            return payload

    model = Same("model")
    return constant(Model, "__call__", lambda: done(model({"instances": [[1.0]]}, headers=HEADERS)))


def mlserver():
    from types import SimpleNamespace

    from mlserver import MLModel
    from mlserver.handlers.dataplane import DataPlane
    from mlserver.settings import ModelSettings, Settings
    from mlserver.types import InferenceRequest, InferenceResponse, Parameters

    class Model(MLModel):
        async def predict(self, _payload):
            return InferenceResponse(model_name=self.name, outputs=[])

    async def get_model(_name, _version=None):
        return model

    model = Model(ModelSettings(name="model", implementation=Model))
    model.ready = True
    plane = DataPlane(Settings(), SimpleNamespace(get_model=get_model))
    payload = InferenceRequest(inputs=[], parameters=Parameters(headers=HEADERS))
    return constant(DataPlane, "infer", lambda: done(plane.infer(payload, "model")))


CASES = {
    "sglang": Case("sglang", "`TokenizerManager.generate_request`", sglang),
    "lmdeploy": Case("lmdeploy", "`AsyncEngine.preprocess` and `generate`", lmdeploy),
    "vllm": Case("vllm", "`LLMEngine.add_request` and a step", vllm),
    "litserve": Case("litserve", "a request in a worker", litserve),
    "bentoml": Case("bentoml", "an API", bentoml),
    "ray_serve": Case("ray_serve", "a call in a replica", ray_serve, "ray"),
    "kserve": Case("kserve", "`Model.__call__`", kserve),
    "mlserver": Case("mlserver", "`DataPlane.infer`", mlserver),
}
