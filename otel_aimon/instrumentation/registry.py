"""The frameworks that are instrumented: a table. A framework is one row here and one file beside it.

The rows hold names only. A framework's own file is imported when the application imports the
framework, and its hooks are installed then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Framework:
    """One row.

    Attributes:
        name: Value of ``aimon.framework``; ``aimon_<name>`` is the entry point.
        title: The name that its users know.
        distribution: What they install.
        oldest: Oldest version that the tests run.
        hooks: Modules of the framework, each with the function that hooks it once it is imported.
        records: What becomes a request, in a line for the docs.
        layer: Where its requests stand among nested layers, in a word for the docs.
        module: Where those functions are; ``otel_aimon.instrumentation.<name>`` by default.
        checked: What was run, in a phrase for the docs, where the framework itself does not run under the tests as it
            does for its users; empty where it does, in its oldest and its newest version.
    """

    name: str
    title: str
    distribution: str
    oldest: str
    hooks: tuple[tuple[str, str], ...]
    records: str = ""
    layer: str = ""
    module: str = ""
    checked: str = ""


FRAMEWORKS: tuple[Framework, ...] = (
    Framework(
        name="transformers",
        title="Transformers",
        distribution="transformers",
        oldest="4.57",
        hooks=(
            ("transformers.pipelines.base", "hook_pipelines"),
            ("transformers.pipelines.pt_utils", "hook_lazy_results"),
            ("transformers.generation.utils", "hook_generate"),
            ("transformers.models.whisper.generation_whisper", "hook_whisper"),
            ("transformers.generation.continuous_batching.continuous_api", "hook_continuous_batching"),
        ),
        records="every pipeline, `generate` in all its modes, continuous batching",
        layer="pipeline, generate",
    ),
    Framework(
        name="sentence_transformers",
        title="Sentence Transformers",
        distribution="sentence-transformers",
        oldest="5.0",
        hooks=(("sentence_transformers", "hook_encoders"),),
        records="`encode` and its variants, `CrossEncoder.predict` and `rank`, `SparseEncoder`",
        layer="pipeline",
    ),
    Framework(
        name="torch",
        title="PyTorch",
        distribution="torch",
        oldest="2.6",
        hooks=(
            ("torch", "hook_modules"),
            ("torch._dynamo.eval_frame", "hook_compiled"),
            ("torch.export.exported_program", "hook_exported"),
        ),
        records="modules on which `eval()` is called, and compiled, scripted and exported modules, with gradients off",
        layer="model",
    ),
    Framework(
        name="onnxruntime",
        title="ONNX Runtime",
        distribution="onnxruntime",
        oldest="1.18",
        hooks=(("onnxruntime.capi.onnxruntime_inference_collection", "hook_sessions"),),
        records="`run`, `run_async`, IO binding, OrtValues",
        layer="model",
    ),
    Framework(
        name="sklearn",
        title="scikit-learn",
        distribution="scikit-learn",
        oldest="1.4",
        hooks=(("sklearn.base", "hook_estimators"), ("sklearn.utils.parallel", "hook_workers")),
        records="`predict` and its kin, `transform`, `score_samples` of every estimator and subclass; silent inside `fit`",
        layer="model",
    ),
    Framework(
        name="xgboost",
        title="XGBoost",
        distribution="xgboost",
        oldest="2.1",
        hooks=(
            ("xgboost.core", "hook_boosters"),
            ("xgboost.callback", "hook_callbacks"),
            ("xgboost.sklearn", "hook_estimators"),
        ),
        records="`Booster.predict` and `inplace_predict`, `predict`, `predict_proba` and `apply` of estimators; silent inside training",
        layer="model",
    ),
    Framework(
        name="lightgbm",
        title="LightGBM",
        distribution="lightgbm",
        oldest="4.3",
        hooks=(("lightgbm", "hook_models"),),
        records="`predict` of a `Booster`, `predict` and `predict_proba` of estimators; silent inside training",
        layer="model",
    ),
    Framework(
        name="catboost",
        title="CatBoost",
        distribution="catboost",
        oldest="1.2.5",
        hooks=(("catboost", "hook_models"),),
        records="`predict` and its kin, `virtual_ensembles_predict`, `calc_leaf_indexes`, each iteration of `staged_predict`; silent inside training",
        layer="model",
    ),
    Framework(
        name="spacy",
        title="spaCy",
        distribution="spacy",
        oldest="3.7",
        hooks=(
            ("spacy.language", "hook_languages"),
            ("spacy.pipeline.entityruler", "hook_rulers"),
            ("spacy.pipeline.span_ruler", "hook_rulers"),
        ),
        records="each call of a pipeline, each iteration of `nlp.pipe`; silent inside training",
        layer="pipeline",
    ),
    Framework(
        name="tensorflow",
        title="TensorFlow",
        distribution="tensorflow",
        oldest="2.18",
        hooks=(("tensorflow.python.saved_model.load", "hook_saved_models"),),
        records="signatures and functions of loaded SavedModels, executed at once and with no gradient taken",
        layer="model",
    ),
    Framework(
        name="keras",
        title="Keras",
        distribution="keras",
        oldest="3.5",
        hooks=(("keras.src.models.model", "hook_models"),),
        records="`predict`, `predict_on_batch` and calls of a model, on TensorFlow, JAX and PyTorch; silent inside training",
        layer="model",
    ),
    Framework(
        name="jax",
        title="JAX",
        distribution="jax",
        oldest="0.4.30",
        hooks=(("jax", "hook_compilations"),),
        records="calls of the functions given to `otel_aimon.monitor_jax`, until the result is ready; compilations",
        layer="model",
    ),
    Framework(
        name="ctranslate2",
        title="CTranslate2",
        distribution="ctranslate2",
        oldest="4.0",
        hooks=(("ctranslate2", "hook_models"),),
        records="each batch of a `Generator`, `Translator`, `Encoder` or speech model, also asynchronous; token streams and iterables",
        layer="pipeline, generate, model",
    ),
    Framework(
        name="onnxruntime_genai",
        title="ONNX Runtime generate()",
        distribution="onnxruntime-genai",
        oldest="0.6",
        hooks=(("onnxruntime_genai", "hook_generators"),),
        records="each turn of a `Generator`, from its prompt to its last token",
        layer="generate",
    ),
    Framework(
        name="llama_cpp",
        title="llama-cpp-python",
        distribution="llama-cpp-python",
        oldest="0.3.0",
        hooks=(("llama_cpp.llama", "hook_models"),),
        records="each completion, chat and embedding, also streamed; `generate` used alone",
        layer="generate, model",
    ),
    Framework(
        name="mlx_lm",
        title="MLX LM",
        distribution="mlx-lm",
        oldest="0.28",
        hooks=(
            ("mlx_lm.utils", "hook_loading"),
            ("mlx_lm.generate", "hook_generation"),
            ("mlx_lm", "hook_names"),
            ("mlx_lm.chat", "hook_names"),
            ("mlx_lm.evaluate", "hook_names"),
            ("mlx_lm.server", "hook_server"),
        ),
        records="`generate`, `stream_generate`, `batch_generate`, each prompt of a `BatchGenerator` and of the HTTP server",
        layer="generate",
    ),
    Framework(
        name="exllamav2",
        title="ExLlamaV2",
        distribution="exllamav2",
        oldest="0.1.9",
        hooks=(("exllamav2.generator.dynamic", "hook_generator"),),
        records="each job of a dynamic generator, also asynchronous; each call of its `generate`",
        layer="generate",
        checked="its own dynamic generators, oldest and newest, over a model that computes nothing; its kernels are for GPUs",
    ),
    Framework(
        name="faster_whisper",
        title="faster-whisper",
        distribution="faster-whisper",
        oldest="1.0.3",
        hooks=(("faster_whisper.transcribe", "hook_transcription"),),
        records="each transcription, from the call to its last segment; language detection",
        layer="pipeline",
    ),
    Framework(
        name="openvino",
        title="OpenVINO",
        distribution="openvino",
        oldest="2024.0",
        hooks=(("openvino", "hook_requests"),),
        records="each inference of a compiled model: calls, `InferRequest`, `AsyncInferQueue`",
        layer="model",
    ),
    Framework(
        name="tensorrt",
        title="TensorRT",
        distribution="tensorrt",
        oldest="10.0",
        hooks=(
            ("tensorrt_bindings", "hook_contexts"),
            ("tensorrt", "hook_contexts"),
        ),
        records="`IExecutionContext.execute_v2`; not `execute_async_v3`, of which nothing says when it is done",
        layer="model",
        checked="its own Python bindings, oldest and newest, over libraries that compute nothing; its own need a GPU",
    ),
    Framework(
        name="optimum",
        title="Optimum",
        distribution="optimum",
        oldest="2.0",
        hooks=(
            ("optimum.onnxruntime.modeling", "hook_models"),
            ("optimum.exporters.onnx.convert", "hook_export"),
        ),
        records="calls of the models that ONNX Runtime runs; their `generate` and pipelines as those of Transformers; silent while a model is exported",
        layer="model",
    ),
    Framework(
        name="diffusers",
        title="Diffusers",
        distribution="diffusers",
        oldest="0.29.2",
        hooks=(
            ("diffusers.pipelines.pipeline_utils", "hook_pipelines"),
            ("diffusers.modular_pipelines.modular_pipeline", "hook_modular_pipelines"),
        ),
        records="each call of a pipeline, the application's own and modular ones too, with its denoising steps",
        layer="model",
    ),
    Framework(
        name="vllm",
        title="vLLM",
        distribution="vllm",
        oldest="0.11.1",
        hooks=(
            ("vllm.v1.metrics.loggers", "hook_stat_loggers"),
            ("vllm.v1.engine.output_processor", "hook_outputs"),
            ("vllm.v1.engine.core_client", "hook_core_client"),
            ("vllm.v1.engine.async_llm", "hook_async_engine"),
            ("vllm.v1.engine.llm_engine", "hook_engine"),
            ("vllm.v1.engine.core", "hook_core"),
            ("vllm.v1.executor.multiproc_executor", "hook_workers"),
            ("vllm.entrypoints.pooling.offline", "hook_pooling"),
            ("vllm.entrypoints.generate.beam_search.offline", "hook_beam_search"),
            ("vllm.entrypoints.generate.beam_search.online", "hook_online_beam_search"),
            ("vllm.entrypoints.llm", "hook_llm"),
            ("vllm.entrypoints.openai.completion.serving", "hook_serving"),
            ("vllm.entrypoints.openai.chat_completion.serving", "hook_serving"),
            ("vllm.entrypoints.openai.responses.serving", "hook_serving"),
            ("vllm.entrypoints.pooling.base.serving", "hook_pooling_serving"),
            # Where older versions have the classes of the server.
            ("vllm.entrypoints.openai.serving_engine", "hook_online_beam_search"),
            ("vllm.entrypoints.openai.serving_completion", "hook_serving"),
            ("vllm.entrypoints.openai.serving_chat", "hook_serving"),
            ("vllm.entrypoints.openai.serving_responses", "hook_serving"),
            ("vllm.entrypoints.openai.serving_embedding", "hook_serving"),
            ("vllm.entrypoints.openai.serving_classification", "hook_serving"),
            ("vllm.entrypoints.openai.serving_pooling", "hook_serving"),
            ("vllm.entrypoints.openai.serving_score", "hook_serving"),
            ("vllm.entrypoints.openai.engine.serving", "hook_online_beam_search"),
            ("vllm.entrypoints.pooling.embed.serving", "hook_serving"),
            ("vllm.entrypoints.pooling.classify.serving", "hook_serving"),
            ("vllm.entrypoints.pooling.pooling.serving", "hook_serving"),
            ("vllm.entrypoints.pooling.score.serving", "hook_serving"),
        ),
        records="every prompt of `LLM`, `AsyncLLM` and the OpenAI server; the engine's queue, batch and caches",
        layer="generate, model",
    ),
    Framework(
        name="sglang",
        title="SGLang",
        distribution="sglang",
        oldest="0.5.5",
        hooks=(
            ("sglang.srt.managers.tokenizer_manager", "hook_tokenizer_manager"),
            ("sglang.srt.managers.scheduler", "hook_scheduler"),
            ("sglang.srt.entrypoints.engine", "hook_engine"),
            ("sglang.srt.entrypoints.openai.serving_base", "hook_serving"),
            ("sglang.srt.entrypoints.ollama.serving", "hook_ollama"),
        ),
        records="every prompt of `Engine` and of the HTTP server; the scheduler's queue, batch and caches",
        layer="generate, model",
        checked="its own front end, scheduler, server and models on a CPU, with a stand-in for its kernels, which are for GPUs",
    ),
    Framework(
        name="tensorrt_llm",
        title="TensorRT-LLM",
        distribution="tensorrt-llm",
        oldest="0.20",
        hooks=(
            ("tensorrt_llm.llmapi.llm", "hook_llm"),
            ("tensorrt_llm._torch.pyexecutor.py_executor", "hook_loop"),
        ),
        records="each `LLM.generate`, each prompt of `LLM.generate_async` and of `trtllm-serve`",
        layer="generate",
        checked="the instrumentation over a module with the signatures that its sources have; nothing of TensorRT-LLM itself",
    ),
    Framework(
        name="lmdeploy",
        title="LMDeploy",
        distribution="lmdeploy",
        oldest="0.13",
        hooks=(
            ("lmdeploy.serve.core.async_engine", "hook_requests"),
            ("lmdeploy.pytorch.engine.engine", "hook_engine"),
        ),
        records="every prompt of `pipeline`, of `AsyncEngine` and of the HTTP server",
        layer="generate",
        checked="its own pipeline, front end and HTTP server on a CPU, with a stand-in for the engine that runs the model, which is for GPUs",
    ),
    Framework(
        name="openai",
        title="OpenAI client",
        distribution="openai",
        oldest="1.99",
        hooks=(
            ("openai._streaming", "hook_streams"),
            ("openai.resources.chat.completions.completions", "hook_resources"),
            ("openai.resources.completions", "hook_resources"),
            ("openai.resources.responses.responses", "hook_resources"),
            ("openai.resources.embeddings", "hook_resources"),
        ),
        records="chat completions, completions, responses and embeddings asked of a remote model, also streamed",
        layer="generate",
    ),
    Framework(
        name="anthropic",
        title="Anthropic client",
        distribution="anthropic",
        oldest="0.70",
        hooks=(
            ("anthropic._streaming", "hook_streams"),
            ("anthropic.resources.messages.messages", "hook_messages"),
            ("anthropic.resources.beta.messages.messages", "hook_messages"),
        ),
        records="messages asked of a remote model, also streamed",
        layer="generate",
    ),
    Framework(
        name="ollama",
        title="Ollama client",
        distribution="ollama",
        oldest="0.5",
        hooks=(("ollama._client", "hook_clients"),),
        records="chats, generations and embeddings asked of an Ollama server, also streamed",
        layer="generate",
    ),
    Framework(
        name="litellm",
        title="LiteLLM",
        distribution="litellm",
        oldest="1.80",
        hooks=(("litellm", "hook_functions"),),
        records="completions and embeddings, also streamed; the client that it asks through is silent",
        layer="generate",
    ),
    Framework(
        name="huggingface_hub",
        title="Hugging Face inference client",
        distribution="huggingface_hub",
        oldest="1.0",
        hooks=(
            ("huggingface_hub.inference._client", "hook_clients"),
            ("huggingface_hub.inference._generated._async_client", "hook_clients"),
        ),
        records="chat completions, text generation and feature extraction asked of a remote model, also streamed",
        layer="generate",
    ),
    Framework(
        name="tritonclient",
        title="Triton client",
        distribution="tritonclient",
        oldest="2.52",
        hooks=(
            ("tritonclient.http._client", "hook_http"),
            ("tritonclient.http.aio", "hook_http_aio"),
            ("tritonclient.grpc._client", "hook_grpc"),
            ("tritonclient.grpc._infer_stream", "hook_streams"),
            ("tritonclient.grpc.aio", "hook_grpc_aio"),
        ),
        records="inferences asked of a Triton or KServe v2 server, over HTTP and gRPC, also asynchronous and on streams",
        layer="model, generate",
    ),
    Framework(
        name="litserve",
        title="LitServe",
        distribution="litserve",
        oldest="0.2.15",
        hooks=(
            ("litserve.server", "hook_server"),
            ("litserve.loops.base", "hook_loops"),
            ("litserve.loops.simple_loops", "hook_simple"),
            ("litserve.loops.streaming_loops", "hook_streaming"),
            ("litserve.loops.continuous_batching_loop", "hook_continuous"),
        ),
        records="each request in the worker that has the model: alone, in a batch, as a stream",
        layer="request",
    ),
    Framework(
        name="bentoml",
        title="BentoML",
        distribution="bentoml",
        oldest="1.4.0",
        hooks=(
            ("_bentoml_impl.server.app", "hook_app"),
            ("_bentoml_sdk.io_models", "hook_results"),
            ("bentoml._internal.marshal.dispatcher", "hook_dispatcher"),
        ),
        records="each call of a service's API over HTTP, in the worker: alone, in a batch, as a stream",
        layer="request",
    ),
    Framework(
        name="ray_serve",
        title="Ray Serve",
        distribution="ray",
        oldest="2.49",
        hooks=(
            ("ray.serve._private.default_impl", "hook_handles"),
            ("ray.serve._private.replica", "hook_replica"),
            ("ray.serve.batching", "hook_batches"),
        ),
        records="each call of a deployment, over HTTP or through a handle, in the replica: alone, in a batch, as a stream",
        layer="request",
    ),
    Framework(
        name="kserve",
        title="KServe",
        distribution="kserve",
        oldest="0.16",
        hooks=(("kserve.model", "hook_models"),),
        records="each prediction and explanation of a model, over REST and gRPC",
        layer="request",
    ),
    Framework(
        name="mlserver",
        title="MLServer",
        distribution="mlserver",
        oldest="1.6",
        hooks=(
            ("mlserver.handlers.dataplane", "hook_data_plane"),
            ("mlserver.rest.endpoints", "hook_endpoints"),
            ("mlserver.batching.adaptive", "hook_batching"),
            ("mlserver.parallel.dispatcher", "hook_dispatcher"),
            ("mlserver.parallel.worker", "hook_worker"),
        ),
        records="each inference, over REST and gRPC, alone, in an adaptive batch, as a stream",
        layer="request",
    ),
)

BY_NAME: dict[str, Framework] = {framework.name: framework for framework in FRAMEWORKS}
"""All that can be hooked: the rows above, and those that other distributions add."""

_OURS = frozenset(BY_NAME)


def add(framework: Framework) -> bool:
    """Add the row of a framework that another distribution instruments.

    Returns:
        False where the name is that of a framework above, which stays as it is.
    """
    if framework.name in _OURS:
        return False
    BY_NAME[framework.name] = framework
    return True
