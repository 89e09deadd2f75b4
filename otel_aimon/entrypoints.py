"""What OpenTelemetry loads: one instrumentor for the runtime, one per framework.

Nothing escapes from here: an exception in one entry point would stop every later instrumentor,
ours and others'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otel_aimon import runtime
from otel_aimon.config import FILE_SECTION, enabled_by_file, warn_unknown_options
from otel_aimon.core.guard import swallow
from otel_aimon.instrumentation import loader

if TYPE_CHECKING:
    from collections.abc import Collection

_PROVIDERS = ("tracer_provider", "meter_provider", "logger_provider")


class _Instrumentor(BaseInstrumentor):  # type: ignore[misc]
    """What our instrumentors share: quiet repetition, no dependency check, no escape."""

    entry_point: ClassVar[str] = ""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: one framework that is missing must not disable the others."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Instrument, unless that is done already: a declarative file and the loader both call."""
        if self.is_instrumented_by_opentelemetry:
            return
        try:
            if not enabled_by_file(self.entry_point):
                return
            super().instrument(**{**kwargs, "skip_dep_check": True})
        except Exception as error:
            swallow(error, f"the entry point {self.entry_point}")

    def uninstrument(self, **kwargs: Any) -> None:
        """Undo :meth:`instrument`; without it, do nothing."""
        if not self.is_instrumented_by_opentelemetry:
            return
        try:
            super().uninstrument(**kwargs)
        except Exception as error:
            swallow(error, f"the entry point {self.entry_point}")


class AimonInstrumentor(_Instrumentor):
    """The runtime, and the processor that takes in the spans of others."""

    entry_point = FILE_SECTION

    def _instrument(self, **kwargs: Any) -> None:
        providers = {key: kwargs.pop(key, None) for key in _PROVIDERS}
        running = runtime.start(kwargs, **providers)
        if running is not None:
            loader.warn_unknown(running.settings.frameworks)
            running.want_processor()

    def _uninstrument(self, **_kwargs: Any) -> None:
        runtime.stop()


class FrameworkInstrumentor(_Instrumentor):
    """One framework."""

    framework: ClassVar[str] = ""

    def _instrument(self, **kwargs: Any) -> None:
        providers = {key: kwargs.pop(key, None) for key in _PROVIDERS}
        warn_unknown_options(self.entry_point, kwargs)
        running = runtime.start(**providers)
        if running is not None:
            loader.arm(self.framework, running)

    def _uninstrument(self, **_kwargs: Any) -> None:
        loader.disarm(self.framework)


class TransformersInstrumentor(FrameworkInstrumentor):
    """Transformers."""

    entry_point = "aimon_transformers"
    framework = "transformers"


class SentenceTransformersInstrumentor(FrameworkInstrumentor):
    """Sentence Transformers."""

    entry_point = "aimon_sentence_transformers"
    framework = "sentence_transformers"


class TorchInstrumentor(FrameworkInstrumentor):
    """PyTorch."""

    entry_point = "aimon_torch"
    framework = "torch"


class OnnxruntimeInstrumentor(FrameworkInstrumentor):
    """ONNX Runtime."""

    entry_point = "aimon_onnxruntime"
    framework = "onnxruntime"


class SklearnInstrumentor(FrameworkInstrumentor):
    """scikit-learn."""

    entry_point = "aimon_sklearn"
    framework = "sklearn"


class XgboostInstrumentor(FrameworkInstrumentor):
    """XGBoost."""

    entry_point = "aimon_xgboost"
    framework = "xgboost"


class LightgbmInstrumentor(FrameworkInstrumentor):
    """LightGBM."""

    entry_point = "aimon_lightgbm"
    framework = "lightgbm"


class CatboostInstrumentor(FrameworkInstrumentor):
    """CatBoost."""

    entry_point = "aimon_catboost"
    framework = "catboost"


class SpacyInstrumentor(FrameworkInstrumentor):
    """spaCy."""

    entry_point = "aimon_spacy"
    framework = "spacy"


class TensorflowInstrumentor(FrameworkInstrumentor):
    """TensorFlow."""

    entry_point = "aimon_tensorflow"
    framework = "tensorflow"


class KerasInstrumentor(FrameworkInstrumentor):
    """Keras."""

    entry_point = "aimon_keras"
    framework = "keras"


class JaxInstrumentor(FrameworkInstrumentor):
    """JAX."""

    entry_point = "aimon_jax"
    framework = "jax"


class Ctranslate2Instrumentor(FrameworkInstrumentor):
    """CTranslate2."""

    entry_point = "aimon_ctranslate2"
    framework = "ctranslate2"


class OnnxruntimeGenaiInstrumentor(FrameworkInstrumentor):
    """ONNX Runtime generate()."""

    entry_point = "aimon_onnxruntime_genai"
    framework = "onnxruntime_genai"


class LlamaCppInstrumentor(FrameworkInstrumentor):
    """llama-cpp-python."""

    entry_point = "aimon_llama_cpp"
    framework = "llama_cpp"


class MlxLmInstrumentor(FrameworkInstrumentor):
    """MLX LM."""

    entry_point = "aimon_mlx_lm"
    framework = "mlx_lm"


class Exllamav2Instrumentor(FrameworkInstrumentor):
    """ExLlamaV2."""

    entry_point = "aimon_exllamav2"
    framework = "exllamav2"


class FasterWhisperInstrumentor(FrameworkInstrumentor):
    """faster-whisper."""

    entry_point = "aimon_faster_whisper"
    framework = "faster_whisper"


class OpenvinoInstrumentor(FrameworkInstrumentor):
    """OpenVINO."""

    entry_point = "aimon_openvino"
    framework = "openvino"


class TensorrtInstrumentor(FrameworkInstrumentor):
    """TensorRT."""

    entry_point = "aimon_tensorrt"
    framework = "tensorrt"


class OptimumInstrumentor(FrameworkInstrumentor):
    """Optimum."""

    entry_point = "aimon_optimum"
    framework = "optimum"


class DiffusersInstrumentor(FrameworkInstrumentor):
    """Diffusers."""

    entry_point = "aimon_diffusers"
    framework = "diffusers"


class VllmInstrumentor(FrameworkInstrumentor):
    """vLLM."""

    entry_point = "aimon_vllm"
    framework = "vllm"


class SglangInstrumentor(FrameworkInstrumentor):
    """SGLang."""

    entry_point = "aimon_sglang"
    framework = "sglang"


class TensorrtLlmInstrumentor(FrameworkInstrumentor):
    """TensorRT-LLM."""

    entry_point = "aimon_tensorrt_llm"
    framework = "tensorrt_llm"


class LmdeployInstrumentor(FrameworkInstrumentor):
    """LMDeploy."""

    entry_point = "aimon_lmdeploy"
    framework = "lmdeploy"


class OpenaiInstrumentor(FrameworkInstrumentor):
    """OpenAI's client."""

    entry_point = "aimon_openai"
    framework = "openai"


class AnthropicInstrumentor(FrameworkInstrumentor):
    """Anthropic's client."""

    entry_point = "aimon_anthropic"
    framework = "anthropic"


class OllamaInstrumentor(FrameworkInstrumentor):
    """Ollama's client."""

    entry_point = "aimon_ollama"
    framework = "ollama"


class LitellmInstrumentor(FrameworkInstrumentor):
    """LiteLLM."""

    entry_point = "aimon_litellm"
    framework = "litellm"


class HuggingfaceHubInstrumentor(FrameworkInstrumentor):
    """Hugging Face's inference client."""

    entry_point = "aimon_huggingface_hub"
    framework = "huggingface_hub"


class TritonclientInstrumentor(FrameworkInstrumentor):
    """Triton's client."""

    entry_point = "aimon_tritonclient"
    framework = "tritonclient"


class LitserveInstrumentor(FrameworkInstrumentor):
    """LitServe."""

    entry_point = "aimon_litserve"
    framework = "litserve"


class BentomlInstrumentor(FrameworkInstrumentor):
    """BentoML."""

    entry_point = "aimon_bentoml"
    framework = "bentoml"


class RayServeInstrumentor(FrameworkInstrumentor):
    """Ray Serve."""

    entry_point = "aimon_ray_serve"
    framework = "ray_serve"


class KserveInstrumentor(FrameworkInstrumentor):
    """KServe."""

    entry_point = "aimon_kserve"
    framework = "kserve"


class MlserverInstrumentor(FrameworkInstrumentor):
    """MLServer."""

    entry_point = "aimon_mlserver"
    framework = "mlserver"


FRAMEWORK_INSTRUMENTORS: dict[str, type[FrameworkInstrumentor]] = {
    cls.framework: cls
    for cls in (
        TransformersInstrumentor,
        SentenceTransformersInstrumentor,
        TorchInstrumentor,
        OnnxruntimeInstrumentor,
        SklearnInstrumentor,
        XgboostInstrumentor,
        LightgbmInstrumentor,
        CatboostInstrumentor,
        SpacyInstrumentor,
        TensorflowInstrumentor,
        KerasInstrumentor,
        JaxInstrumentor,
        Ctranslate2Instrumentor,
        OnnxruntimeGenaiInstrumentor,
        LlamaCppInstrumentor,
        MlxLmInstrumentor,
        Exllamav2Instrumentor,
        FasterWhisperInstrumentor,
        OpenvinoInstrumentor,
        TensorrtInstrumentor,
        OptimumInstrumentor,
        DiffusersInstrumentor,
        VllmInstrumentor,
        SglangInstrumentor,
        TensorrtLlmInstrumentor,
        LmdeployInstrumentor,
        OpenaiInstrumentor,
        AnthropicInstrumentor,
        OllamaInstrumentor,
        LitellmInstrumentor,
        HuggingfaceHubInstrumentor,
        TritonclientInstrumentor,
        LitserveInstrumentor,
        BentomlInstrumentor,
        RayServeInstrumentor,
        KserveInstrumentor,
        MlserverInstrumentor,
    )
}
