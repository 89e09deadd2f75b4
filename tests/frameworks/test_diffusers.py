"""Diffusers, for real: a pipeline's call is a request, with the steps that were done."""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diffusers")

pytestmark = [
    # Diffusers and Transformers warn of each other, and of what of PyTorch they still use.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:(diffusers|transformers|torch).*"),
]

import diffusers
import numpy as np
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

import otel_aimon
from tests.frameworks.request_spans import request_span
from tests.support.telemetry import Telemetry
from tests.support.tiny_diffusers import silent, stable_diffusion, unconditional

STEPS, STEP_TIME, ITEM_TIME = "aimon.diffusion.steps", "aimon.diffusion.time_per_step", "aimon.time_per_item"


def span(
    model: str = "StableDiffusionPipeline",
    *,
    batch: int | None = 1,
    steps: int | None = 3,
    timed: bool = True,
    **known: Any,
) -> dict[str, Any]:
    """A whole span; times are ``True`` where they are there and positive."""
    # Where a pipeline runs is seen when its first step is done.
    device = "cpu" if steps else None
    made = request_span("diffusers", "generate", model, batch=batch, **{"device": device, **known})
    if steps is not None:
        made["attributes"][STEPS] = steps
        if steps and timed:
            made["attributes"][STEP_TIME] = True
    if batch:
        made["attributes"][ITEM_TIME] = True
    return made


def recorded(telemetry: Telemetry) -> list[dict[str, Any]]:
    spans = telemetry.spans()
    for each in spans:
        for name in (STEP_TIME, ITEM_TIME):
            if name in each["attributes"]:
                each["attributes"][name] = each["attributes"][name] > 0
    return spans


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def drawing(folder: Path) -> Any:
    return stable_diffusion(folder)


@pytest.fixture(scope="module")
def saved(folder: Path, drawing: Any) -> Path:
    drawing.save_pretrained(folder / "tiny-sd")
    return folder / "tiny-sd"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry() as running:
        yield running


def draw(pipeline: Any, prompt: Any = "a cat", steps: int = 3, **more: Any) -> Any:
    return pipeline(prompt, num_inference_steps=steps, output_type="np", **more)


def asking_to_stop_after(step: int) -> Any:
    def at_step_end(pipeline: Any, done: int, _timestep: Any, kwargs: Any) -> Any:
        if done == step:
            pipeline._interrupt = True
        return kwargs

    return at_step_end


class TestCalls:
    def test_a_call_is_one_request(self, telemetry: Telemetry, drawing: Any) -> None:
        result = draw(drawing)
        assert type(result).__name__ == "StableDiffusionPipelineOutput"
        assert result.images.shape[0] == 1
        assert recorded(telemetry) == [span()]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "diffusers",
            "aimon.operation": "generate",
            "aimon.model.name": "StableDiffusionPipeline",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 1)
        assert not [name for name in metrics if name.startswith("gen_ai.")]
        assert "aimon.inference.stage.duration" not in metrics

    def test_the_batch_is_the_images_made(self, telemetry: Telemetry, drawing: Any) -> None:
        draw(drawing, ["a cat", "a dog"], num_images_per_prompt=2)
        drawing("a cat", num_inference_steps=1, num_images_per_prompt=3)
        images, _ = drawing("a cat", num_inference_steps=1, output_type="latent", return_dict=False)
        assert type(images) is torch.Tensor
        assert recorded(telemetry) == [span(batch=4), span(batch=3, steps=1), span(steps=1)]

    def test_times_of_images_and_steps(self, telemetry: Telemetry, drawing: Any) -> None:
        draw(drawing, num_images_per_prompt=2)
        [raw] = telemetry.raw_spans()
        seconds = (raw.end_time - raw.start_time) / 1e9
        assert raw.attributes[ITEM_TIME] * 2 == pytest.approx(seconds, abs=1e-6)
        assert 0 < raw.attributes[STEP_TIME] * 3 < seconds

    def test_without_text(self, telemetry: Telemetry) -> None:
        pipeline = unconditional()
        pipeline(batch_size=2, num_inference_steps=3, output_type="np")
        assert recorded(telemetry) == [span("DDIMPipeline", batch=2)]

    def test_a_model_that_was_loaded_has_its_folders_name(self, telemetry: Telemetry, saved: Path) -> None:
        # Loaded models are in evaluation mode, and so requests of PyTorch where they are called alone.
        pipeline = silent(DiffusionPipeline.from_pretrained(str(saved)))
        assert type(pipeline) is StableDiffusionPipeline
        draw(pipeline)
        draw(silent(DiffusionPipeline.from_pretrained(saved)))
        draw(silent(StableDiffusionPipeline.from_pipe(pipeline)))
        assert recorded(telemetry) == [span("tiny-sd")] * 3
        assert telemetry.counts() == {("diffusers", "tiny-sd", "generate"): 3}

    def test_inside_an_inference_recorded_by_hand(self, telemetry: Telemetry, drawing: Any) -> None:
        with otel_aimon.inference("draw", model="mine") as inference:
            inference.usage(output_tokens=7)
            draw(drawing)
        assert [(each["name"], each["parent"]) for each in telemetry.spans()] == [
            ("draw mine", None),
            ("generate StableDiffusionPipeline", "draw mine"),
        ]
        assert telemetry.counts() == {("manual", "mine", "draw"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {
            ("diffusers", "StableDiffusionPipeline", "generate"): 1
        }
        [tokens] = telemetry.metrics()["aimon.inference.tokens"]
        assert tokens.value == 7

    def test_calls_of_several_threads(self, telemetry: Telemetry) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(
                pool.map(
                    lambda steps: unconditional()(num_inference_steps=steps, output_type="np"), [1, 2, 3]
                )
            )
        assert sorted(each["attributes"][STEPS] for each in telemetry.spans()) == [1, 2, 3]

    def test_weights_that_are_brought_in_as_they_are_needed(self, telemetry: Telemetry, folder: Path) -> None:
        accelerate = pytest.importorskip("accelerate")
        pipeline = stable_diffusion(folder)
        for each in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            accelerate.cpu_offload(each, torch.device("cpu"))
        assert next(pipeline.unet.parameters()).device.type == "meta"
        draw(pipeline)
        assert recorded(telemetry) == [span()]

    def test_the_same_images_as_without_us(self, telemetry: Telemetry, drawing: Any) -> None:
        def image() -> Any:
            return draw(drawing, generator=torch.Generator().manual_seed(1)).images

        ours = image()
        otel_aimon.uninstrument()
        assert np.array_equal(image(), ours)


class TestSteps:
    def test_a_scheduler_of_higher_order_does_more_than_were_asked_for(
        self, telemetry: Telemetry, folder: Path
    ) -> None:
        draw(stable_diffusion(folder, HeunDiscreteScheduler()))
        draw(stable_diffusion(folder, PNDMScheduler(skip_prk_steps=True)))
        assert recorded(telemetry) == [span(steps=5), span(steps=4)]

    def test_an_image_to_start_from_leaves_less_to_do(self, telemetry: Telemetry, drawing: Any) -> None:
        changing = silent(StableDiffusionImg2ImgPipeline(**drawing.components, requires_safety_checker=False))
        picture = np.zeros((1, 16, 16, 3), np.float32)
        changing("a cat", image=picture, strength=0.5, num_inference_steps=4, output_type="np")
        assert recorded(telemetry) == [span("StableDiffusionImg2ImgPipeline", steps=2)]

    def test_guidance_does_not_double_them(self, telemetry: Telemetry, drawing: Any) -> None:
        draw(drawing, guidance_scale=9.0)
        draw(drawing, guidance_scale=0.0)
        assert recorded(telemetry) == [span()] * 2

    def test_a_scheduler_on_top_of_another(self, telemetry: Telemetry, folder: Path) -> None:
        class Mine(DDIMScheduler):
            def step(self, *args: Any, **kwargs: Any) -> Any:
                return super().step(*args, **kwargs)

        draw(stable_diffusion(folder, Mine()))
        assert recorded(telemetry) == [span()]

    def test_a_scheduler_that_cannot_be_hooked(
        self, telemetry: Telemetry, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Unusual(DDIMScheduler):
            step = functools.partialmethod(DDIMScheduler.step)

        pipeline = stable_diffusion(folder, Unusual())
        draw(pipeline)
        draw(pipeline)
        assert recorded(telemetry) == [span(steps=None)] * 2
        assert len([each for each in caplog.messages if "Unusual.step stays without telemetry" in each]) == 1

    def test_a_pipeline_with_a_loop_of_its_own(self, telemetry: Telemetry) -> None:
        class Loop(DDIMPipeline):
            @torch.no_grad()
            def __call__(self, steps: int) -> Any:
                self.scheduler.set_timesteps(steps)
                image = torch.zeros(2, 3, 8, 8)
                for timestep in self.scheduler.timesteps:
                    noise = self.unet(image, timestep).sample
                    image = self.scheduler.step(noise, timestep, image).prev_sample
                return image

        pipeline = Loop(**unconditional().components)
        assert pipeline(3).shape == (2, 3, 8, 8)
        assert pipeline(1).shape == (2, 3, 8, 8)
        # Without a sign of the loop's start, the first step has no time.
        assert recorded(telemetry) == [span("Loop", batch=2), span("Loop", batch=2, steps=1, timed=False)]

    def test_steps_outside_of_a_call_are_nobodys(self, telemetry: Telemetry, drawing: Any) -> None:
        draw(drawing)
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(3)
        scheduler.step(torch.zeros(1, 3, 8, 8), scheduler.timesteps[0], torch.zeros(1, 3, 8, 8))
        with otel_aimon.inference("train", model="mine"):
            scheduler.step(torch.zeros(1, 3, 8, 8), scheduler.timesteps[0], torch.zeros(1, 3, 8, 8))
        assert [each["name"] for each in telemetry.spans()] == [
            "generate StableDiffusionPipeline",
            "train mine",
        ]


class TestFailures:
    def test_a_prompt_of_the_wrong_type(self, telemetry: Telemetry, drawing: Any) -> None:
        with pytest.raises(ValueError, match="has to be of type"):
            drawing(17, num_inference_steps=3)
        with pytest.raises(TypeError):
            draw(drawing, num_images_per_prompt="two")
        assert recorded(telemetry) == [
            span(batch=None, steps=0, error="ValueError"),
            span(batch=None, steps=0, error="TypeError"),
        ]
        assert telemetry.counts() == {
            ("diffusers", "StableDiffusionPipeline", "generate", error): 1
            for error in ("ValueError", "TypeError")
        }
        assert "aimon.inference.batch.size" not in telemetry.metrics()

    @pytest.mark.parametrize(
        ("raised", "error"), [(LookupError("secret"), "LookupError"), (KeyboardInterrupt(), "cancelled")]
    )
    def test_a_callback_that_raises(
        self, telemetry: Telemetry, drawing: Any, raised: BaseException, error: str
    ) -> None:
        def at_step_end(_pipeline: Any, done: int, _timestep: Any, kwargs: Any) -> Any:
            if done == 1:
                raise raised
            return kwargs

        with pytest.raises(type(raised)) as caught:
            draw(drawing, callback_on_step_end=at_step_end)
        assert caught.value is raised
        assert recorded(telemetry) == [span(batch=None, steps=2, error=error)]
        draw(drawing)
        assert recorded(telemetry)[1:] == [span()]

    def test_a_step_that_fails_is_not_counted(self, telemetry: Telemetry, folder: Path) -> None:
        class Failing(DDIMScheduler):
            def step(self, noise: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
                if timestep == self.timesteps[1]:
                    raise ArithmeticError
                return super().step(noise, timestep, *args, **kwargs)

        with pytest.raises(ArithmeticError):
            draw(stable_diffusion(folder, Failing()))
        assert recorded(telemetry) == [span(batch=None, steps=1, error="ArithmeticError")]

    def test_a_pipeline_that_is_asked_to_stop(self, telemetry: Telemetry, drawing: Any) -> None:
        result = draw(drawing, callback_on_step_end=asking_to_stop_after(0))
        assert result.images.shape[0] == 1
        assert recorded(telemetry) == [span(steps=1, error="cancelled")]
        assert telemetry.counts() == {("diffusers", "StableDiffusionPipeline", "generate", "cancelled"): 1}

    def test_asked_to_stop_when_all_is_done(self, telemetry: Telemetry, drawing: Any) -> None:
        draw(drawing, callback_on_step_end=asking_to_stop_after(2))
        draw(drawing)
        assert recorded(telemetry) == [span()] * 2


class TestOwnPipelines:
    def test_a_subclass_that_is_defined_later(self, telemetry: Telemetry, folder: Path) -> None:
        class Mine(StableDiffusionPipeline):
            def __call__(self, text: str) -> Any:
                return super().__call__(text, num_inference_steps=2, output_type="np")

        class Child(Mine):
            pass

        stable_diffusion(folder, cls=Mine)("a cat")
        stable_diffusion(folder, cls=Child)("a cat")
        assert recorded(telemetry) == [span("Mine", steps=2), span("Child", steps=2)]
        assert list(inspect.signature(Mine.__call__).parameters) == ["self", "text"]

    def test_a_call_that_a_mixin_defines(self, telemetry: Telemetry) -> None:
        class Doubling:
            def __call__(self, number: int) -> Any:
                return [number] * 2

        class Plain(Doubling, DiffusionPipeline):
            def __init__(self) -> None:
                super().__init__()

        assert Plain()(3) == [3, 3]
        assert Doubling()(3) == [3, 3]
        assert recorded(telemetry) == [span("Plain", batch=2, steps=None)]

    def test_a_coroutine(self, telemetry: Telemetry) -> None:
        class Slow(DiffusionPipeline):
            async def __call__(self) -> Any:
                return ["image"]

        call = Slow()()
        assert recorded(telemetry) == []
        with pytest.raises(StopIteration) as stopped:
            call.send(None)
        assert stopped.value.value == ["image"]
        assert recorded(telemetry) == [span("Slow", steps=None)]

    def test_an_output_that_says_nothing(self, telemetry: Telemetry) -> None:
        class Odd(DiffusionPipeline):
            def __call__(self, output: Any) -> Any:
                return output

        class NeverTouched:
            def __len__(self) -> int:
                raise AssertionError

            __bool__ = __iter__ = __len__

        pipeline = Odd()
        for output in (NeverTouched(), (), None, torch.tensor(1), SimpleNamespace(shape=(3, 3))):
            assert pipeline(output) is output
        assert recorded(telemetry) == [span("Odd", batch=None, steps=None)] * 5

    def test_a_pipeline_that_calls_another(self, telemetry: Telemetry) -> None:
        class Twice(DiffusionPipeline):
            def __init__(self, inner: Any) -> None:
                super().__init__()
                self.register_modules(scheduler=inner.scheduler, unet=inner.unet)
                self.inner = inner

            def __call__(self) -> Any:
                first = self.inner(num_inference_steps=2, output_type="np").images
                return [*first, *self.inner(num_inference_steps=2, output_type="np").images]

        Twice(unconditional())()
        assert recorded(telemetry) == [span("Twice", batch=2, steps=4)]

    def test_classes_are_not_kept_alive(self, telemetry: Telemetry) -> None:
        import gc

        class Gone(DiffusionPipeline):
            def __call__(self) -> None:
                return None

        Gone()()
        gone = weakref.ref(Gone)
        del Gone
        gc.collect()
        assert gone() is None


@pytest.mark.skipif(not hasattr(diffusers, "ModularPipeline"), reason="there are no modular pipelines yet")
class TestModularPipelines:
    @pytest.fixture
    def pipeline(self) -> Any:
        from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam

        class Denoise(ModularPipelineBlocks):
            @property
            def expected_components(self) -> Any:
                return [ComponentSpec("scheduler", DDIMScheduler)]

            @property
            def inputs(self) -> Any:
                return [InputParam("batch_size", default=2), InputParam("num_inference_steps", default=3)]

            @property
            def intermediate_outputs(self) -> Any:
                return [OutputParam("images")]

            def __call__(self, components: Any, state: Any) -> Any:
                block = self.get_block_state(state)
                components.scheduler.set_timesteps(block.num_inference_steps)
                block.images = torch.zeros(block.batch_size, 3, 8, 8)
                for timestep in components.scheduler.timesteps:
                    block.images = components.scheduler.step(block.images, timestep, block.images).prev_sample
                self.set_block_state(state, block)
                return components, state

        pipeline = Denoise().init_pipeline()
        pipeline.update_components(scheduler=DDIMScheduler())
        return pipeline

    def test_a_call_is_one_request(self, telemetry: Telemetry, pipeline: Any) -> None:
        assert pipeline().get("images").shape[0] == 2
        assert pipeline(output="images", batch_size=4).shape[0] == 4
        assert recorded(telemetry) == [span("Denoise", batch=2), span("Denoise", batch=4)]

    def test_an_error(self, telemetry: Telemetry, pipeline: Any) -> None:
        with pytest.raises(TypeError):
            pipeline(num_inference_steps="many")
        assert recorded(telemetry) == [span("Denoise", batch=None, steps=0, error="TypeError")]


class TestUnchanged:
    def test_everything_is_put_back(self, folder: Path) -> None:
        def looks() -> dict[str, Any]:
            classes = (DiffusionPipeline, StableDiffusionPipeline, DDIMPipeline, DDIMScheduler, PNDMScheduler)
            return {
                f"{cls.__name__}.{name}": vars(cls).get(name)
                for cls in classes
                for name in ("__call__", "__init_subclass__", "progress_bar", "step")
            }

        before = looks()
        with Telemetry() as telemetry:

            class Mine(DDIMPipeline):
                def __call__(self) -> Any:
                    return super().__call__(num_inference_steps=2, output_type="np")

            wrapped = Mine.__call__
            draw(stable_diffusion(folder))
            Mine(**unconditional().components)()
            assert {name for name, value in looks().items() if value is not before[name]} == {
                "DiffusionPipeline.__init_subclass__",
                "DiffusionPipeline.progress_bar",
                "StableDiffusionPipeline.__call__",
                "DDIMPipeline.__call__",
                "DDIMScheduler.step",
            }
            assert len(recorded(telemetry)) == 2
        assert looks() == before
        assert Mine.__call__ is wrapped.__wrapped__
        with Telemetry() as telemetry:
            silent(Mine(**unconditional().components))()
            assert recorded(telemetry) == [span("Mine", steps=2)]

    def test_a_call_through_a_method_that_was_kept(self, folder: Path) -> None:
        pipeline, before = (
            stable_diffusion(folder, HeunDiscreteScheduler()),
            vars(HeunDiscreteScheduler)["step"],
        )
        with Telemetry() as telemetry:
            kept = pipeline.__call__
        kept("a cat", num_inference_steps=1)
        assert vars(HeunDiscreteScheduler)["step"] is before
        assert telemetry.spans() == []

    def test_signatures_and_documentation(self, telemetry: Telemetry) -> None:
        with_us = (
            inspect.signature(StableDiffusionPipeline.__call__),
            StableDiffusionPipeline.__call__.__doc__,
        )
        otel_aimon.uninstrument()
        assert with_us == (
            inspect.signature(StableDiffusionPipeline.__call__),
            StableDiffusionPipeline.__call__.__doc__,
        )

    def test_methods_pickle(self, telemetry: Telemetry) -> None:
        for function in (StableDiffusionPipeline.__call__, DiffusionPipeline.progress_bar):
            assert pickle.loads(pickle.dumps(function)) is function

    def test_a_class_pickled_with_its_body_loads_where_we_are_not_installed(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cloudpickle = pytest.importorskip("cloudpickle")

        class Mine(DiffusionPipeline):
            def __call__(self) -> Any:
                return ["image"]

        Mine.__module__ = "__main__"
        pickled = cloudpickle.dumps(Mine)
        otel_aimon.uninstrument()
        for name in [name for name in sys.modules if name.partition(".")[0] == "otel_aimon"]:
            monkeypatch.setitem(sys.modules, name, None)
        assert pickle.loads(pickled)()() == ["image"]

    def test_an_error_of_ours_stays_here(
        self, telemetry: Telemetry, drawing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from otel_aimon.core import guard
        from otel_aimon.instrumentation import diffusers as ours

        def broken(*_: Any) -> Any:
            raise RuntimeError("ours")

        monkeypatch.setattr(guard, "RERAISE", False)
        monkeypatch.setattr(ours, "_running", broken)
        assert draw(drawing).images.shape[0] == 1
        monkeypatch.setattr(ours, "_model_name", broken)
        assert draw(drawing).images.shape[0] == 1
        assert len(telemetry.spans()) == 1
