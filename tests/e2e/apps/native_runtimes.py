"""Requests to runtimes that are libraries of C++, one runtime per run; nobody instruments them in code.

Call: ``native_runtimes.py RUNTIME FOLDER``, with models in the folder where the runtime reads them from disk.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np

PROMPT = ["<s>", "ow", "qu"]


def ctranslate2(folder):
    import ctranslate2

    generator = ctranslate2.Generator(str(folder / "llama"))
    translator = ctranslate2.Translator(str(folder / "t5"))
    options = {"max_length": 6, "min_length": 6, "include_prompt_in_result": False}
    generator.generate_batch([PROMPT, PROMPT], **options)
    for handle in generator.generate_batch([PROMPT], asynchronous=True, **options):
        handle.result()
    list(generator.generate_tokens(PROMPT, max_length=6, min_length=6))
    stream = generator.generate_tokens(PROMPT, max_length=200, min_length=200)
    next(stream)
    stream.close()
    generator.generate_batch([PROMPT], asynchronous=True, **options)  # nobody wants its result
    # Longer than the framework takes: it is cut off.
    translator.translate_batch([PROMPT * 1000], max_decoding_length=2, min_decoding_length=2)
    with contextlib.suppress(ValueError):
        generator.generate_batch([PROMPT], max_length=0)


def faster_whisper(folder):
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder / "whisper"), device="cpu", compute_type="float32")
    sound = np.zeros(16000 * 40, np.float32)
    options = {
        "language": "en",
        "beam_size": 1,
        "temperature": [0.0],
        "no_speech_threshold": None,
        "log_prob_threshold": None,
        "compression_ratio_threshold": None,
        "condition_on_previous_text": False,
        "without_timestamps": True,
    }
    list(model.transcribe(sound, max_new_tokens=8, **options)[0])
    segments, _ = model.transcribe(sound, max_new_tokens=8, **options)
    next(segments)
    del segments
    with contextlib.suppress(ValueError):
        list(model.transcribe(sound, max_new_tokens=1000, **options)[0])


def openvino(_folder):
    import openvino as ov

    from tests.support import tiny_openvino

    core = ov.Core()
    linear = core.compile_model(tiny_openvino.linear(), "CPU")
    addition = core.compile_model(tiny_openvino.addition(), "CPU")
    rows, others = np.ones((3, 4), np.float32), np.ones((3, 7), np.float32)
    linear(rows)
    request = addition.create_infer_request()
    request.start_async({0: rows, 1: rows})
    request.wait()
    request.start_async({0: rows, 1: others})
    with contextlib.suppress(RuntimeError):
        request.wait()
    request.start_async({0: np.ones((2000, 2000), np.float32), 1: np.ones((2000, 2000), np.float32)})
    request.cancel()
    with contextlib.suppress(RuntimeError):
        request.wait()
    queue = ov.AsyncInferQueue(addition, 2)
    seen = []
    queue.set_callback(lambda request, userdata: seen.append(userdata))
    for number in range(5):
        queue.start_async({0: rows, 1: rows}, number)
    queue.wait_all()
    assert sorted(seen) == [0, 1, 2, 3, 4], seen


def onnxruntime_genai(folder):
    import onnxruntime_genai as og

    model = og.Model(str(folder))

    def prompted(ids, **options):
        params = og.GeneratorParams(model)
        params.set_search_options(**options)
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        return generator

    def finish(generator):
        while not generator.is_done():
            generator.generate_next_token()

    finish(prompted([1, 2], max_length=6))
    finish(prompted(np.array([[1, 2], [3, 4]], np.int32), max_length=6, batch_size=2))
    prompted([1, 2], max_length=6).generate_next_token()  # nobody wants the rest
    with contextlib.suppress(RuntimeError):
        prompted([3] * 60, max_length=6)


def llama_cpp(folder):
    from llama_cpp import Llama

    options = {"n_ctx": 256, "n_threads": 1, "verbose": False}
    model = Llama(str(folder / "model.gguf"), **options)
    # Bytes that are letters, so that each token is text of its own.
    plain = {"logit_bias": {70: 100.0}, "temperature": 0}
    model("hello", max_tokens=6, **plain)
    list(model("hello", max_tokens=6, stream=True, **plain))
    model.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=2, **plain)
    stream = model("hello", max_tokens=200, stream=True, **plain)
    next(stream)
    stream.close()
    with contextlib.suppress(ValueError):
        model("x" * 600)
    Llama(str(folder / "model.gguf"), embedding=True, **options).create_embedding(["a", "b"])


globals()[sys.argv[1]](Path(sys.argv[2]))
