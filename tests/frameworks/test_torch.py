"""PyTorch: a root module, called with gradients off, is one request; everything else is silent."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import otel_aimon
from tests.frameworks.torch_models import Failing, Parent, SaysItself, Tiny, forward
from tests.support.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("torch",)) as running:
        yield running


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(2, 8)


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


class Frozen(Tiny):
    """Ends its own eval() otherwise than its parent does, as models of Transformers do."""

    def eval(self) -> Any:
        return self.train(False)


def test_a_class_with_an_eval_of_its_own(telemetry: Telemetry, x: torch.Tensor) -> None:
    class Defined(Tiny):
        def eval(self) -> Any:
            return self.train(False)

    with torch.no_grad():
        Frozen().eval()(x)
        Defined().eval()(x)

    assert [span["name"] for span in telemetry.spans()] == ["forward Frozen", "forward Defined"]


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
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
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


def test_tasks_that_take_turns_each_have_their_own_request(telemetry: Telemetry, x: torch.Tensor) -> None:
    model, parent = Tiny().eval(), Parent(Tiny().eval()).eval()

    async def serve() -> None:
        with torch.no_grad():
            model(x)
        await asyncio.sleep(0)
        with torch.no_grad():
            parent(x)

    async def serve_all() -> None:
        await asyncio.gather(*(serve() for _ in range(3)))

    asyncio.run(serve_all())
    assert telemetry.counts() == {("torch", "Tiny", "forward"): 3, ("torch", "Parent", "forward"): 3}


def test_roots_inside_a_root_are_silent(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Parent(Parent(Tiny().eval()).eval()).eval()
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("Parent")]


def test_a_root_inside_a_module_that_trains_is_a_request_when_gradients_are_off(
    telemetry: Telemetry, x: torch.Tensor
) -> None:
    class Student(Parent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                features = self.child(x)
            return features * 2

    student = Student(Tiny())
    student(x)
    assert telemetry.spans() == []
    student.child.eval()
    student(x)
    assert telemetry.spans() == [forward("Tiny")]


def test_everything_is_silent_where_instrumentation_is_suppressed(
    telemetry: Telemetry, x: torch.Tensor
) -> None:
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    model = Tiny().eval()
    with suppress_instrumentation(), torch.no_grad():
        model(x)

    assert telemetry.spans() == []
    assert telemetry.counts() == {}


# --- what is known of it -----------------------------------------------------------------------


class Anything(nn.Module):
    """Takes anything."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, *args: Any, **kwargs: Any) -> int:
        return 7


class WithMethods(torch.Tensor):
    """A tensor class of the application's."""


@pytest.mark.parametrize(
    ("args", "kwargs", "batch_size"),
    [
        ((torch.ones(3, 8),), {}, 3),
        ((), {"x": torch.ones(5, 8)}, 5),
        ((torch.ones(8),), {}, 8),
        (("text", torch.ones(4, 2), torch.ones(9)), {}, 4),
        ((torch.ones(6, 2).as_subclass(WithMethods),), {}, 6),
        ((nn.Parameter(torch.ones(2, 2)),), {}, 2),
        ((torch.tensor(3.0),), {}, None),
        (([torch.ones(3, 2)],), {}, None),
        (({"x": torch.ones(3, 2)},), {}, None),
        (([1, 2],), {}, None),
        ((), {}, None),
    ],
    ids=["positional", "keyword", "vector", "second", "subclass", "parameter", "number", "list",
         "dict", "no tensor", "nothing"],
)  # fmt: skip
def test_the_batch_size_is_the_first_dimension_of_the_first_tensor(
    telemetry: Telemetry, args: tuple[Any, ...], kwargs: dict[str, Any], batch_size: int | None
) -> None:
    model = Anything().eval()
    with torch.no_grad():
        assert model(*args, **kwargs) == 7

    attributes = telemetry.spans()[0]["attributes"]
    assert attributes.get("aimon.batch.size") == batch_size
    assert attributes["aimon.device"] == "cpu"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_has_no_first_dimension(telemetry: Telemetry) -> None:
    model = Anything().eval()
    with torch.no_grad():
        model(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))

    assert "aimon.batch.size" not in telemetry.spans()[0]["attributes"]


def test_a_module_without_parameters_is_where_its_input_is(telemetry: Telemetry) -> None:
    model = nn.Identity().eval()
    with torch.no_grad():
        model([1])
        model(torch.ones(1))

    assert [span["attributes"].get("aimon.device") for span in telemetry.spans()] == [None, "cpu"]


def test_the_device_is_where_the_parameters_are_now(telemetry: Telemetry) -> None:
    model = Anything().eval()
    with torch.no_grad():
        model()
        model.to("meta")
        model()  # its weights are nowhere
        model.to_empty(device="cpu")
        model()

    assert [span["attributes"].get("aimon.device") for span in telemetry.spans()] == ["cpu", None, "cpu"]


def test_a_hub_model_has_the_name_of_its_configuration(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    with torch.no_grad():
        for name in ("org/ranker", "/home/somebody/models/ranker", None, 5, ""):
            model.config = SimpleNamespace(_name_or_path=name)
            model(x)

    names = [span["attributes"]["aimon.model.name"] for span in telemetry.spans()]
    assert names == ["org/ranker", "ranker", "Tiny", "Tiny", "Tiny"]


# --- roots by name -----------------------------------------------------------------------------


def test_a_module_named_in_code_serves_in_any_mode(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny()
    otel_aimon.instrument_module(model, name="ranker")
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("ranker")]


def test_a_module_named_in_code_is_silent_once_it_is_put_back_to_training(
    telemetry: Telemetry, x: torch.Tensor
) -> None:
    model = Tiny().eval()
    otel_aimon.instrument_module(model, "ranker")
    model.train()
    with torch.no_grad():
        model(x)
    assert telemetry.spans() == []
    model.eval()
    with torch.no_grad():
        model(x)
    assert telemetry.spans() == [forward("ranker")]


def test_a_class_named_in_the_settings_serves_in_any_mode(x: torch.Tensor) -> None:
    before, pickled = Tiny(), pickle.dumps(Tiny())
    with Telemetry(
        frameworks=("torch",), torch_roots=["tests.frameworks.torch_models.Tiny"]
    ) as telemetry, torch.no_grad():  # fmt: skip
        for model in (before, Tiny(), pickle.loads(pickled), copy.deepcopy(before)):
            model(x)
            Parent(model)(x)
        assert telemetry.spans() == [forward("Tiny")] * 8
        before.eval()(x)
        before.train()(x)
        assert telemetry.spans() == [forward("Tiny")] * 9
    assert "_compiled_call_impl" not in vars(Tiny)
    assert "__init_subclass__" not in vars(nn.Module)


def test_subclasses_of_a_named_class_are_roots_too(x: torch.Tensor) -> None:
    with Telemetry(
        frameworks=("torch",), torch_roots=["tests.frameworks.torch_models.Tiny"]
    ) as telemetry, torch.no_grad():  # fmt: skip
        SaysItself()(x)
        assert telemetry.spans() == [forward("SaysItself")]


def test_a_named_class_of_the_script_itself() -> None:
    code = """
        import torch
        from tests.support.telemetry import Telemetry

        with Telemetry(frameworks=("torch",), torch_roots=["__main__.Model"]) as telemetry:
            class Model(torch.nn.Module):
                def forward(self, x):
                    return x

            with torch.no_grad():
                Model()(torch.ones(1))
            print([span["name"] for span in telemetry.spans()])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("['forward Model']\n", "")


@pytest.mark.parametrize(
    "path", ["Tiny", "tests.frameworks.torch_models.Absent", "tests.frameworks.torch_models.nn"]
)
def test_a_wrong_class_in_the_settings_is_one_warning(caplog: pytest.LogCaptureFixture, path: str) -> None:
    with Telemetry(frameworks=("torch",), torch_roots=[path]):
        pass

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert path in caplog.text


def test_naming_what_is_no_module_does_nothing(telemetry: Telemetry) -> None:
    otel_aimon.instrument_module("not a module")

    assert telemetry.spans() == []
