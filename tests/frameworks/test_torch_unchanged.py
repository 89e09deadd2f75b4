"""PyTorch: modules behave as without us, roots and others."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import otel_aimon
from tests.frameworks.torch_models import Own, Parent, SaysItself, Tiny, forward
from tests.support.telemetry import Telemetry

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning"),
]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("torch",)) as running:
        yield running


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(2, 8)


def test_results_types_and_state_are_the_same(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    plain = Tiny().eval()
    with torch.no_grad():
        expected = plain(x)
    with Telemetry(frameworks=("torch",)):
        torch.manual_seed(0)
        watched = Tiny().eval()
        with torch.no_grad():
            result = watched(x)
        assert type(watched) is Tiny
        assert Tiny().eval().__class__.__call__ is nn.Module.__call__
    assert torch.equal(result, expected)
    assert list(watched.state_dict()) == list(plain.state_dict())
    assert repr(watched) == repr(plain)


@pytest.mark.parametrize("make", [Tiny, SaysItself], ids=lambda make: make.__name__)
def test_pickles_and_copies_hold_nothing_of_ours(
    telemetry: Telemetry, x: torch.Tensor, make: Callable[[], Any]
) -> None:
    model = make().eval()
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
    # A copy is an ordinary module, until somebody calls eval() on it.
    assert telemetry.spans() == [forward(make.__name__)]


class Outputs(Parent):
    """Leaves out the state of a recurrent module."""

    def forward(self, x):
        return self.child(x)[0]


def test_a_recurrent_module_which_pickles_all_its_attributes(telemetry: Telemetry) -> None:
    model = nn.LSTM(8, 4).eval()
    with torch.no_grad():
        expected, _ = model(torch.ones(2, 3, 8))
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        result = torch.jit.script(Outputs(copied))(torch.ones(2, 3, 8))

    assert torch.equal(result, expected)
    assert telemetry.spans()[0]["name"] == "forward LSTM"


def test_of_a_class_that_pickles_itself_only_the_root_is_recorded(
    telemetry: Telemetry, x: torch.Tensor
) -> None:
    model, other = SaysItself().eval(), SaysItself()
    with torch.no_grad():
        model(x)
        other(x)  # never in eval mode

    assert telemetry.spans() == [forward("SaysItself")]


def test_a_traced_graph_is_pickled_as_without_us(telemetry: Telemetry, x: torch.Tensor) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 4), nn.ReLU())).eval()
    with torch.no_grad():
        expected = graph(x)
        for copied in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph), copy.copy(graph)):
            assert torch.equal(copied(x), expected)
            assert torch.equal(torch.jit.script(copied)(x), expected)


def scripted() -> Any:
    return torch.jit.script(Tiny().eval())


def compiled() -> Any:
    return torch.compile(Tiny().eval(), backend="eager")


@pytest.mark.parametrize(
    "make", [lambda: Tiny().eval(), lambda: SaysItself().eval(), scripted, compiled],
    ids=["eager", "pickles itself", "scripted", "compiled"],
)  # fmt: skip
def test_a_root_is_freed_at_once(telemetry: Telemetry, x: torch.Tensor, make: Callable[[], Any]) -> None:
    gc.collect()
    gc.disable()
    try:
        model = make()
        with torch.no_grad():
            model(x)
        otel_aimon.force_flush()
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()
    assert telemetry.spans() == [forward(telemetry.spans()[0]["attributes"]["aimon.model.name"])]


class Louder(Tiny):
    """Stands in for another module, with whose attributes it works."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 100


@pytest.mark.parametrize("copied", [False, True])
def test_a_module_with_the_attributes_of_a_root_runs_itself(
    telemetry: Telemetry, x: torch.Tensor, copied: bool
) -> None:
    model = Tiny().eval()
    wrapper = Louder.__new__(Louder)
    wrapper.__dict__ = dict(vars(model)) if copied else vars(model)
    with torch.no_grad():
        assert torch.equal(wrapper(x), model(x) + 100)
        assert telemetry.spans() == [forward("Tiny")]
        del model
        assert wrapper(x).shape == (2, 4)


def test_replicas_of_data_parallel_run_themselves(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    replica = model._replicate_for_data_parallel()
    replica.first = nn.Identity()
    replica.second = nn.Identity()
    with torch.no_grad():
        assert torch.equal(replica(x), x)
        assert telemetry.spans() == []
        nn.DataParallel(model).eval()(x)

    assert telemetry.spans() == [forward("DataParallel")]


def test_functional_calls_hooks_and_own_calls_work(telemetry: Telemetry, x: torch.Tensor) -> None:
    seen: list[str] = []
    model = Own(seen).eval()
    model.register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad():
        torch.func.functional_call(model, dict(model.named_parameters()), (x,))

    assert seen == ["call", "hook"]
    assert telemetry.spans() == [forward("Own")]


def test_modes_of_the_application_see_no_operation_of_ours(telemetry: Telemetry, x: torch.Tensor) -> None:
    seen: list[str] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    model = Tiny().eval()
    with torch.no_grad(), Mode():
        model(x)

    assert seen == ["linear", "relu", "linear"]
    assert telemetry.spans() == [forward("Tiny")]


def test_gradients_flow_through_a_root(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    model(x).sum().backward()

    assert model.first.weight.grad is not None
    assert telemetry.spans() == []


def test_a_root_that_is_compiled_in_place_can_be_taken_back(x: torch.Tensor) -> None:
    torch._dynamo.reset()
    with Telemetry(frameworks=("torch",)):
        model = Tiny().eval()
        model.compile(backend="eager")
        ours = vars(model)["_compiled_call_impl"]
    assert vars(model)["_compiled_call_impl"] is ours.inner
    with torch.no_grad():
        assert model(x).shape == (2, 4)


class WithEval(Tiny):
    """Has an eval() of its own."""

    def eval(self) -> Any:
        return self.train(False)


def test_classes_of_the_application_are_defined_and_freed_as_without_us(telemetry: Telemetry) -> None:
    defined = []

    class Mixin:
        def __init_subclass__(cls, *, tag: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            defined.append(tag)

    class Tagged(nn.Module, Mixin, tag="mine"):
        def eval(self) -> Any:
            return super().eval()

    assert defined == ["mine"]
    Tagged().eval()
    gone = weakref.ref(Tagged)
    del Tagged
    gc.collect()
    assert gone() is None


def hooked() -> dict[str, Any]:
    """All that is replaced in PyTorch."""
    from torch._dynamo.eval_frame import OptimizedModule
    from torch.export.exported_program import ExportedProgram

    owners = {
        nn.Module: ("eval", "compile"),
        WithEval: ("eval",),
        OptimizedModule: ("__init__",),
        ExportedProgram: ("module",),
        torch.fx.Tracer: ("trace",),
        torch.jit: ("script", "trace", "trace_module", "load", "freeze"),
        torch.jit._trace: ("trace_module", "_trace_impl"),
        torch.jit._freeze: ("freeze",),
        torch.jit._recursive: ("create_script_module",),
        torch.jit._serialization: ("wrap_cpp_module",),
    }
    return {f"{owner}.{name}": vars(owner)[name] for owner, names in owners.items() for name in names}


def test_uninstrument_puts_back_every_original(x: torch.Tensor) -> None:
    before = hooked()
    with Telemetry(frameworks=("torch",)):
        during = hooked()
        models = [Tiny().eval(), SaysItself().eval(), scripted(), compiled()]
        assert "_compiled_call_impl" in vars(models[0])
        assert "_compiled_call_impl" in vars(SaysItself)

    public = {f"{torch.jit}.{name}" for name in ("script", "trace", "load")}
    assert {name for name, value in during.items() if value is before[name]} == public
    assert hooked() == before
    assert "__init_subclass__" not in vars(nn.Module)
    assert all("_compiled_call_impl" not in vars(model) for model in models)
    assert "_compiled_call_impl" not in vars(SaysItself)
    with torch.no_grad():
        for model in models:
            assert model(x).shape == (2, 4)


def test_it_can_be_instrumented_after_the_import_and_again(x: torch.Tensor) -> None:
    model = Tiny().eval()
    for _ in range(2):
        with Telemetry(frameworks=("torch",)) as telemetry, torch.no_grad():
            model.eval()(x)
            assert telemetry.spans() == [forward("Tiny")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_of_torch_is_imported_that_the_application_did_not_import(when: str) -> None:
    code = """
        import sys
        from tests.support.telemetry import Telemetry

        if sys.argv[1] == "before":
            import torch
        with Telemetry(frameworks=("torch",)) as telemetry:
            assert sys.argv[1] == "before" or "torch" not in sys.modules
            import torch

            model = torch.nn.Linear(1, 1).eval()
            with torch.no_grad():
                model(torch.ones(1, 1))
            assert "torch._dynamo" not in sys.modules
            compiled = torch.compile(torch.nn.Linear(1, 1), backend="eager")
            program = torch.export.export(model, (torch.ones(1, 1),))
            with torch.no_grad():
                compiled(torch.ones(1, 1))
                program.module()(torch.ones(1, 1))
            print([span["name"] for span in telemetry.spans()])
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), when]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{['forward Linear'] * 3}\n"
