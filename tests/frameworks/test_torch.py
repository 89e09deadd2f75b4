"""PyTorch: a root module, called with gradients off, is one request; everything else is silent."""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import pickle
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import otel_aimon
from tests.frameworks.torch_models import Failing, Parent, SaysItself, Tiny
from tests.support.telemetry import Telemetry

# TorchScript and the pytree of torch.export are deprecated, and still what services run.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(2, 8)


def forward(model: str, **changes: Any) -> dict[str, Any]:
    """The request span of a root."""
    return {
        "name": f"forward {model}",
        "kind": "INTERNAL",
        "parent": None,
        "attributes": {
            "aimon.framework": "torch",
            "aimon.operation": "forward",
            "aimon.model.name": model,
            "aimon.batch.size": 2,
            "aimon.device": "cpu",
        },
        "status": "UNSET",
        "events": [],
        **changes,
    }


# --- what is a request -------------------------------------------------------------------------


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_module_in_eval_mode_with_gradients_off_is_a_request(
    telemetry: Telemetry, x: torch.Tensor, off: Callable[[], Any]
) -> None:
    model = Tiny().eval()
    with off():
        model(x)

    assert telemetry.spans() == [forward("Tiny")]
    assert telemetry.counts() == {("torch", "Tiny", "forward"): 1}
    points = telemetry.metrics()["aimon.inference.batch.size"]
    assert [(point.count, point.total) for point in points] == [(1, 2)]


def test_it_is_silent_while_training(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    model(x)  # gradients are on
    model.train()
    with torch.no_grad():
        model(x)  # put back to training, as for Monte Carlo dropout

    assert telemetry.spans() == []
    assert "aimon.inference.duration" not in telemetry.metrics()


def test_a_module_without_eval_is_no_root(telemetry: Telemetry, x: torch.Tensor) -> None:
    with torch.no_grad():
        Tiny()(x)

    assert telemetry.spans() == []


def test_children_that_are_roots_too_are_silent(telemetry: Telemetry, x: torch.Tensor) -> None:
    child = Tiny().eval()
    model = Parent(child).eval()
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("Parent")]


def test_children_pay_nothing(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    with torch.no_grad():
        model(x)

    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert "__call__" not in vars(nn.Linear)
    assert "__call__" not in vars(Tiny)
    assert "_compiled_call_impl" not in vars(model.first)
    assert not torch.nn.modules.module._has_any_global_hook()
    assert not model._forward_hooks
    assert not model.first._forward_hooks


def test_inside_a_hand_recorded_request_it_is_a_stage(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    with otel_aimon.inference("classify", model="mine"), torch.no_grad():
        model(x)

    assert telemetry.spans()[1] == forward("Tiny", parent="classify mine")
    assert telemetry.counts() == {("manual", "mine", "classify"): 1}
    assert telemetry.counts("aimon.inference.stage.duration") == {("torch", "Tiny", "forward"): 1}


def test_a_failure_is_counted_without_its_message(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Failing().eval()
    with pytest.raises(ValueError, match="private") as raised, torch.no_grad():
        model(x)

    assert raised.traceback[-1].name == "forward"
    attributes = {**forward("Failing")["attributes"], "error.type": "ValueError"}
    assert telemetry.spans() == [forward("Failing", attributes=attributes, status="ERROR")]
    assert telemetry.raw_spans()[0].status.description == "ValueError"


def test_threads_and_tasks_each_have_their_own_request(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()

    def serve() -> None:
        with torch.no_grad():
            model(x)

    async def serve_all() -> None:
        await asyncio.gather(*(asyncio.to_thread(serve) for _ in range(4)))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(serve)
    asyncio.run(serve_all())

    assert telemetry.spans() == [forward("Tiny")] * 8


@pytest.mark.parametrize(
    ("arguments", "batch_size"),
    [
        ({"args": (torch.ones(3, 8),)}, 3),
        ({"kwargs": {"x": torch.ones(5, 8)}}, 5),
        ({"args": (torch.ones(8),)}, 8),
    ],
    ids=["positional", "keyword", "vector"],
)
def test_the_batch_size_is_the_first_dimension(
    telemetry: Telemetry, arguments: dict[str, Any], batch_size: int
) -> None:
    model = Tiny().eval()
    with torch.no_grad():
        model(*arguments.get("args", ()), **arguments.get("kwargs", {}))

    assert telemetry.spans()[0]["attributes"]["aimon.batch.size"] == batch_size


def test_without_a_tensor_batch_and_device_are_absent(telemetry: Telemetry) -> None:
    class Constant(nn.Module):
        def forward(self, items: list[int]) -> int:
            return 7

    model = Constant().eval()
    with torch.no_grad():
        assert model([1, 2]) == 7

    attributes = telemetry.spans()[0]["attributes"]
    assert "aimon.batch.size" not in attributes
    assert "aimon.device" not in attributes


# --- roots by name -----------------------------------------------------------------------------


def test_a_module_named_in_code_serves_in_any_mode(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny()
    otel_aimon.instrument_module(model, name="ranker")
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("ranker")]


def test_a_class_named_in_the_settings_serves_in_any_mode(x: torch.Tensor) -> None:
    with Telemetry(torch_roots=["tests.frameworks.torch_models.Tiny"]) as telemetry:
        model = Tiny()
        with torch.no_grad():
            model(x)
            Parent(model)(x)
        assert telemetry.spans() == [forward("Tiny"), forward("Tiny")]


@pytest.mark.parametrize(
    "path", ["Tiny", "tests.frameworks.torch_models.Absent", "tests.frameworks.torch_models.nn"]
)
def test_a_wrong_class_in_the_settings_is_one_warning(caplog: pytest.LogCaptureFixture, path: str) -> None:
    with Telemetry(torch_roots=[path]):
        pass

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert path in caplog.text


def test_naming_what_is_no_module_does_nothing(telemetry: Telemetry) -> None:
    otel_aimon.instrument_module("not a module")

    assert telemetry.spans() == []


# --- compiled, scripted, exported --------------------------------------------------------------


def compiled_counters() -> dict[str, Any]:
    from torch._dynamo.utils import counters

    return {key: dict(counters[key]) for key in ("stats", "graph_break", "recompiles")}


def run_compiled(x: torch.Tensor, make: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        model(x)
        return model(x), compiled_counters()


def compiled_root() -> Any:
    return torch.compile(Tiny().eval(), backend="eager", fullgraph=True)


def compiled_in_place() -> Any:
    model = Tiny().eval()
    model.compile(backend="eager", fullgraph=True)
    return model


def compiled_parent_of_a_root() -> Any:
    return torch.compile(Parent(Tiny().eval()).eval(), backend="eager", fullgraph=True)


def compiled_by_inductor() -> Any:
    return torch.compile(Tiny().eval(), fullgraph=True)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (compiled_root, "Tiny"),
        (compiled_in_place, "Tiny"),
        (compiled_parent_of_a_root, "Parent"),
        (compiled_by_inductor, "Tiny"),
    ],
)
def test_compiled_modules_are_roots_and_compile_as_without_us(
    x: torch.Tensor, make: Callable[[], Any], name: str
) -> None:
    plain, plain_counters = run_compiled(x, make)
    with Telemetry() as telemetry:
        watched, counters = run_compiled(x, make)
        assert telemetry.spans() == [forward(name), forward(name)]
        assert telemetry.counts() == {("torch", name, "forward"): 2}

    assert torch.equal(watched, plain)
    assert counters == plain_counters
    assert counters["graph_break"] == {}


def test_a_compiled_function_keeps_its_graph_breaks_and_records_nothing(x: torch.Tensor) -> None:
    def make() -> Any:
        model = Tiny().eval()

        def function(value: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return model(value) + 1

        return torch.compile(function, backend="eager")

    plain, plain_counters = run_compiled(x, make)
    with Telemetry() as telemetry:
        watched, counters = run_compiled(x, make)
        assert telemetry.spans() == []

    assert torch.equal(watched, plain)
    assert counters == plain_counters


def test_compiled_modules_are_silent_while_training(telemetry: Telemetry, x: torch.Tensor) -> None:
    torch._dynamo.reset()
    model = torch.compile(Tiny(), backend="eager")
    model(x)
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == []


def scripted() -> Any:
    return torch.jit.script(Tiny().eval())


def traced() -> Any:
    return torch.jit.trace(Tiny().eval(), torch.ones(2, 8))


def loaded() -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Tiny().eval()), file)
    file.seek(0)
    return torch.jit.load(file)


def frozen() -> Any:
    return torch.jit.freeze(torch.jit.script(Tiny().eval()))


@pytest.mark.parametrize("make", [scripted, traced, loaded, frozen])
def test_scripted_modules_are_roots(telemetry: Telemetry, x: torch.Tensor, make: Callable[[], Any]) -> None:
    model = make()
    assert telemetry.spans() == []
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("Tiny")]


def test_scripting_finds_names_where_the_caller_stands(telemetry: Telemetry) -> None:
    @torch.jit.script
    def twice(value: torch.Tensor) -> torch.Tensor:
        return value * 2

    @torch.jit.script
    class Doubler:
        def __init__(self) -> None:
            self.times = 1

        def run(self, value: torch.Tensor) -> torch.Tensor:
            return twice(value)

    assert torch.equal(Doubler().run(torch.ones(1)), torch.full((1,), 2.0))
    assert telemetry.spans() == []


def test_exported_modules_are_roots(telemetry: Telemetry, x: torch.Tensor) -> None:
    with torch.no_grad():
        program = torch.export.export(Tiny().eval(), (x,))
        assert telemetry.spans() == []
        module = program.module()
        result = module(x)

    assert result.shape == (2, 4)
    assert telemetry.spans() == [forward("GraphModule")]
    copied = copy.deepcopy(module)
    with torch.no_grad():
        assert torch.equal(copied(x), result)


def test_tracing_by_fx_sees_what_it_saw(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Parent(Tiny().eval()).eval()
    with torch.no_grad():
        graph = torch.fx.symbolic_trace(model)
        assert torch.equal(graph(x), model(x))

    assert telemetry.spans() == [forward("Parent")]


# --- behaviour unchanged -----------------------------------------------------------------------


def test_results_types_and_state_are_the_same(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    plain = Tiny().eval()
    with torch.no_grad():
        expected = plain(x)
    with Telemetry():
        torch.manual_seed(0)
        watched = Tiny().eval()
        with torch.no_grad():
            result = watched(x)
        assert type(watched) is Tiny
        assert Tiny().eval().__class__.__call__ is nn.Module.__call__
    assert torch.equal(result, expected)
    assert list(watched.state_dict()) == list(plain.state_dict())
    assert repr(watched) == repr(plain)


@pytest.mark.parametrize("cls", [Tiny, SaysItself])
def test_pickles_and_copies_hold_nothing_of_ours(telemetry: Telemetry, x: torch.Tensor, cls: Any) -> None:
    model = cls().eval()
    with torch.no_grad():
        expected = model(x)
    written = pickle.dumps(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)

    assert b"otel_aimon" not in written
    assert b"otel_aimon" not in file.getvalue()
    for copied in (
        pickle.loads(written),
        torch.load(file, weights_only=False),
        copy.deepcopy(model),
        copy.copy(model),
    ):
        assert "_compiled_call_impl" not in vars(copied)
        with torch.no_grad():
            assert torch.equal(copied(x), expected)


def test_a_class_that_says_itself_what_is_pickled_is_a_root_too(
    telemetry: Telemetry, x: torch.Tensor
) -> None:
    model, other = SaysItself().eval(), SaysItself()
    with torch.no_grad():
        model(x)
        other(x)  # never in eval mode

    assert telemetry.spans() == [forward("SaysItself")]


def test_a_root_is_freed_at_once(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    with torch.no_grad():
        model(x)
    otel_aimon.force_flush()
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_replicas_of_data_parallel_run_themselves(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    replica = model._replicate_for_data_parallel()
    wrapped = nn.DataParallel(model).eval()
    with torch.no_grad():
        wrapped(x)

    assert "_compiled_call_impl" not in vars(replica)
    assert telemetry.spans() == [forward("DataParallel")]


def test_functional_calls_hooks_and_own_calls_work(telemetry: Telemetry, x: torch.Tensor) -> None:
    seen: list[str] = []

    class Own(Tiny):
        def __call__(self, *args: Any) -> Any:
            seen.append("call")
            return super().__call__(*args)

    model = Own().eval()
    model.register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad():
        torch.func.functional_call(model, dict(model.named_parameters()), (x,))

    assert seen == ["call", "hook"]
    assert telemetry.spans() == [forward("Own")]


def test_uninstrument_leaves_ordinary_modules(x: torch.Tensor) -> None:
    names = ("eval", "compile", "_replicate_for_data_parallel")
    before = {name: vars(nn.Module)[name] for name in names}
    script, trace = torch.jit.script, torch.jit.trace
    with Telemetry():
        model, itself = Tiny().eval(), SaysItself().eval()
        in_place = Tiny().eval()
        in_place.compile(backend="eager")
        module = scripted()
        assert "_compiled_call_impl" in vars(model)

    assert {name: vars(nn.Module)[name] for name in names} == before
    assert (torch.jit.script, torch.jit.trace) == (script, trace)
    assert "_compiled_call_impl" not in vars(model)
    assert "__call__" not in vars(SaysItself)
    with torch.no_grad():
        for each in (model, itself, in_place, module):
            assert each(x).shape == (2, 4)


def test_it_can_be_instrumented_after_the_import_and_again(x: torch.Tensor) -> None:
    model = Tiny().eval()
    for _ in range(2):
        with Telemetry() as telemetry, torch.no_grad():
            model.eval()(x)
            assert telemetry.spans() == [forward("Tiny")]


def test_nothing_of_torch_is_imported_that_the_application_did_not_import() -> None:
    import subprocess

    code = (
        "import otel_aimon, sys; otel_aimon.instrument(); assert 'torch' not in sys.modules;"
        "import torch; torch.nn.Linear(1, 1).eval(); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
