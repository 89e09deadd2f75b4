"""PyTorch: compiled, scripted and exported modules are roots, and come out as without us."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.frameworks.torch_models import Parent, Tiny, forward
from tests.support.telemetry import Telemetry

# TorchScript and the pytree of torch.export are deprecated, and still what services run.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    # Torch 2.6 says so when it fills an empty cache of compiled code.
    pytest.mark.filterwarnings(
        "ignore:Skipping serialization of skipfiles_inline_module_allowlist:UserWarning"
    ),
]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.ones(2, 8)


# --- torch.compile -----------------------------------------------------------------------------


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


def compiled_module_of_torch() -> Any:
    return torch.compile(nn.Linear(8, 4).eval(), backend="eager", fullgraph=True)


def compiled_module_of_torch_with_hook() -> Any:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    model.register_forward_hook(add_one)
    return torch.compile(model, backend="eager", fullgraph=True)


def compiled_parent_of_a_root_with_hook() -> Any:
    child = Tiny().eval()
    child.register_forward_hook(add_one)
    return torch.compile(Parent(child).eval(), backend="eager", fullgraph=True)


def compiled_parent_of_a_compiled_root() -> Any:
    child = torch.compile(Tiny().eval(), backend="eager")
    return torch.compile(Parent(child).eval(), backend="eager", fullgraph=True)


def compiled_in_place_before_eval() -> Any:
    model = Tiny()
    model.compile(backend="eager", fullgraph=True)
    return model.eval()


def add_one(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output + 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (compiled_root, "Tiny"),
        (compiled_in_place, "Tiny"),
        (compiled_in_place_before_eval, "Tiny"),
        (compiled_parent_of_a_root, "Parent"),
        (compiled_parent_of_a_root_with_hook, "Parent"),
        (compiled_parent_of_a_compiled_root, "Parent"),
        (compiled_module_of_torch, "Linear"),
        (compiled_module_of_torch_with_hook, "Sequential"),
        (compiled_by_inductor, "Tiny"),
    ],
)
def test_compiled_modules_are_roots_and_compile_as_without_us(
    x: torch.Tensor, make: Callable[[], Any], name: str
) -> None:
    plain, plain_counters = run_compiled(x, make)
    with Telemetry(frameworks=("torch",)) as telemetry:
        watched, counters = run_compiled(x, make)
        assert telemetry.spans() == [forward(name), forward(name)]
        assert telemetry.counts() == {("torch", name, "forward"): 2}

    assert torch.equal(watched, plain)
    assert counters == plain_counters
    assert counters["graph_break"] == {}


def compiled_call() -> Any:
    return torch.compile(Tiny().eval().__call__, backend="eager", fullgraph=True)


def compiled_function_of_a_root_with_hook() -> Any:
    model = Tiny().eval()
    model.register_forward_hook(add_one)
    return torch.compile(lambda value: model(value) + 1, backend="eager", fullgraph=True)


def compiled_function_that_calls_eval() -> Any:
    model = Tiny()

    def function(value: torch.Tensor) -> torch.Tensor:
        model.eval()
        return model(value)

    return torch.compile(function, backend="eager", fullgraph=True)


@pytest.mark.parametrize(
    "make", [compiled_call, compiled_function_of_a_root_with_hook, compiled_function_that_calls_eval]
)
def test_compiled_functions_record_nothing_and_compile_as_without_us(
    x: torch.Tensor, make: Callable[[], Any]
) -> None:
    plain, plain_counters = run_compiled(x, make)
    with Telemetry(frameworks=("torch",)) as telemetry:
        watched, counters = run_compiled(x, make)
        assert telemetry.spans() == []

    assert torch.equal(watched, plain)
    assert counters == plain_counters


def test_becoming_a_root_compiles_nothing_anew(x: torch.Tensor) -> None:
    def make() -> Any:
        child = Tiny()
        model = torch.compile(Parent(child).eval(), backend="eager", fullgraph=True)
        with torch.no_grad():
            model(x)
        child.eval()
        return model

    _, plain_counters = run_compiled(x, make)
    with Telemetry(frameworks=("torch",)):
        _, counters = run_compiled(x, make)

    assert counters == plain_counters


def test_a_compiled_function_keeps_its_graph_breaks_and_records_nothing(x: torch.Tensor) -> None:
    def make() -> Any:
        model = Tiny().eval()

        def function(value: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return model(value) + 1

        return torch.compile(function, backend="eager")

    plain, plain_counters = run_compiled(x, make)
    with Telemetry(frameworks=("torch",)) as telemetry:
        watched, counters = run_compiled(x, make)
        assert telemetry.spans() == []

    assert torch.equal(watched, plain)
    assert counters == plain_counters


def test_a_compiled_module_is_silent_while_training(telemetry: Telemetry, x: torch.Tensor) -> None:
    torch._dynamo.reset()
    model = torch.compile(Tiny(), backend="eager")
    model(x)
    assert telemetry.spans() == []
    with torch.no_grad():
        model(x)  # It was compiled to serve, and nobody has said yet which mode it is to serve in.
    assert telemetry.spans() == [forward("Tiny")]
    model.eval()
    model.train()
    with torch.no_grad():
        model(x)
    assert telemetry.spans() == [forward("Tiny")]


def test_a_copy_of_a_compiled_module_is_a_root(telemetry: Telemetry, x: torch.Tensor) -> None:
    torch._dynamo.reset()
    model = copy.deepcopy(torch.compile(Tiny().eval(), backend="eager"))
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("Tiny")]


# --- TorchScript -------------------------------------------------------------------------------


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


def optimized() -> Any:
    return torch.jit.optimize_for_inference(torch.jit.script(Tiny().eval()))


def traced_with_gradients_off() -> Any:
    with torch.no_grad():
        return torch.jit.trace(Tiny().eval(), torch.ones(2, 8))


@pytest.mark.parametrize(
    "make",
    [scripted, traced, traced_with_gradients_off, loaded, frozen, optimized],
    ids=lambda it: it.__name__,
)
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


def test_a_root_is_scripted_to_the_same_type_as_another_module(telemetry: Telemetry) -> None:
    root, other = torch.jit.script(Tiny().eval()), torch.jit.script(Tiny())

    assert root._c._type() == other._c._type()


def test_a_root_is_a_root_again_after_scripting(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Tiny().eval()
    torch.jit.script(model)
    with torch.no_grad():
        model(x)

    assert telemetry.spans() == [forward("Tiny")]


# --- torch.export and torch.fx -----------------------------------------------------------------


def exported(*, strict: bool = False) -> Any:
    with torch.no_grad():
        return torch.export.export(Parent(Tiny().eval()).eval(), (torch.ones(2, 8),), strict=strict)


def exported_from_a_file() -> Any:
    file = io.BytesIO()
    torch.export.save(exported(), file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("make", [exported, exported_from_a_file])
def test_exported_modules_are_roots(telemetry: Telemetry, x: torch.Tensor, make: Callable[[], Any]) -> None:
    module = make().module()
    assert telemetry.spans() == []
    with torch.no_grad():
        result = module(x)
        assert telemetry.spans() == [forward("Parent")]
        assert torch.equal(copy.deepcopy(module)(x), result)


@pytest.mark.parametrize("strict", [False, True])
def test_export_sees_what_it_saw(x: torch.Tensor, strict: bool) -> None:
    def seen() -> list[tuple[str, list[Any]]]:
        nodes = exported(strict=strict).graph.nodes
        return [(node.name, list(node.meta.get("nn_module_stack", {}).values())) for node in nodes]

    plain = seen()
    with Telemetry(frameworks=("torch",)):
        assert seen() == plain


def test_tracing_by_fx_sees_what_it_saw(telemetry: Telemetry, x: torch.Tensor) -> None:
    model = Parent(Tiny().eval()).eval()
    with torch.no_grad():
        graph = torch.fx.symbolic_trace(model)
        assert torch.equal(graph(x), model(x))

    assert telemetry.spans() == [forward("Parent")]
