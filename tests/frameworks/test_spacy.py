"""spaCy, for real: a text is a request, a stream is a request, and training is none."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import sys
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import spacy
from spacy.language import Language
from spacy.pipeline.entityruler import EntityRuler
from spacy.pipeline.span_ruler import SpanRuler
from spacy.tokens import Doc
from spacy.training import Example

import otel_aimon
from tests.frameworks.request_spans import request_span, served
from tests.support import scripts
from tests.support.telemetry import Telemetry, wait_until

pytestmark = [
    # Python 3.12 and newer warn of every fork beside threads, which the exporters are.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

span = functools.partial(request_span, "spacy")


@Language.component("aimon_test_failing")
def failing(doc: Doc) -> Doc:
    if "bad" in doc.text:
        raise LookupError("the secret text")
    return doc


@Language.component("aimon_test_model")
def model(doc: Doc) -> Doc:
    with otel_aimon.inference("inner", model="of-a-component"):
        return doc


def make_pipeline(*components: str, name: str | None = "tiny") -> Language:
    nlp = spacy.blank("en", meta={"name": name} if name else {})
    nlp.add_pipe("sentencizer")
    for component in components:
        nlp.add_pipe(component)
    return nlp


@pytest.fixture(scope="module")
def trained() -> Language:
    nlp = make_pipeline()
    categories = nlp.add_pipe("textcat")
    categories.add_label("GOOD")
    categories.add_label("BAD")
    nlp.initialize()
    return nlp


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("spacy",)) as running:
        yield running


class TestCalls:
    def test_a_text_is_one_request(self, telemetry: Telemetry, trained: Language) -> None:
        found = trained("Some text. And more.")
        assert type(found) is Doc and len(list(found.sents)) == 2
        assert set(found.cats) == {"GOOD", "BAD"}
        assert telemetry.spans() == [span("call", "en_tiny", batch=1)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "spacy",
            "aimon.operation": "call",
            "aimon.model.name": "en_tiny",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 1)

    def test_a_document_that_is_made_already(self, telemetry: Telemetry, trained: Language) -> None:
        document = trained.make_doc("Some text.")
        assert trained(document) is document
        assert telemetry.spans() == [span("call", "en_tiny", batch=1)]

    def test_a_pipeline_without_a_name(self, telemetry: Telemetry) -> None:
        make_pipeline(name=None)("text")
        assert telemetry.spans() == [span("call", "en_pipeline", batch=1)]

    def test_an_error(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_failing")
        with pytest.raises(LookupError, match="the secret text"):
            nlp("bad")
        with pytest.raises(ValueError, match="E1041"):
            nlp(7)
        with pytest.raises(TypeError):
            nlp()
        assert telemetry.spans() == [
            span("call", "en_tiny", batch=1, device=None, error=error)
            for error in ("LookupError", "ValueError", "TypeError")
        ]
        assert telemetry.counts() == {
            ("spacy", "en_tiny", "call", error): 1 for error in ("LookupError", "ValueError", "TypeError")
        }

    def test_the_device_of_a_function_is_unknown(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_failing")
        nlp("text")
        with nlp.select_pipes(disable=["aimon_test_failing"]):
            nlp("text")
        assert telemetry.spans() == [
            span("call", "en_tiny", batch=1, device=None),
            span("call", "en_tiny", batch=1),
        ]

    def test_what_a_component_calls_is_part_of_the_request(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_model")
        with otel_aimon.inference("read", model="letters"):
            nlp("text")
        names = [(each["name"], each["parent"]) for each in telemetry.spans()]
        assert names == [("read letters", None), ("call en_tiny", "read letters")]
        assert telemetry.counts() == {("manual", "letters", "read"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry, trained: Language) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(trained, ["text"] * 20))
            list(pool.map(lambda texts: list(trained.pipe(texts)), [["a", "b"]] * 20))
        assert telemetry.counts() == {("spacy", "en_tiny", "call"): 20, ("spacy", "en_tiny", "pipe"): 20}
        assert telemetry.counts("aimon.inference.stage.duration") == {}


class TestStreams:
    def test_the_iteration_is_the_request(self, telemetry: Telemetry, trained: Language) -> None:
        stream = trained.pipe(["one", "two", "three"], batch_size=2)
        assert type(stream) is types.GeneratorType
        assert (stream.__name__, stream.__qualname__) == ("pipe", "Language.pipe")
        assert telemetry.spans() == []
        found = list(stream)
        assert [each.text for each in found] == ["one", "two", "three"]
        assert {type(each) for each in found} == {Doc}
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=3)]
        metrics = telemetry.metrics()
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 3)
        assert "gen_ai.server.time_to_first_token" not in metrics

    def test_with_contexts(self, telemetry: Telemetry, trained: Language) -> None:
        context = object()
        [(document, same)] = trained.pipe([("one", context)], as_tuples=True)
        assert document.text == "one" and same is context
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=1)]

    def test_texts_are_taken_as_without_us(self, telemetry: Telemetry, trained: Language) -> None:
        def taken_at_each_step() -> list[int]:
            taken: list[int] = []

            def texts() -> Iterator[str]:
                for number in range(5):
                    taken.append(number)
                    yield "text"

            stream = trained.pipe(texts(), batch_size=2)
            steps = [len(taken)]
            for _ in stream:
                steps.append(len(taken))
            return steps

        with_us = taken_at_each_step()
        otel_aimon.uninstrument()
        assert taken_at_each_step() == with_us
        assert with_us[:2] == [0, 2]

    def test_the_loop_body_is_the_users(self, telemetry: Telemetry, trained: Language) -> None:
        for _ in trained.pipe(["one", "two"]):
            trained("inside the loop")
        assert telemetry.spans() == [
            span("pipe", "en_tiny", batch=2),
            *[span("call", "en_tiny", batch=1)] * 2,
        ]

    def test_a_stream_inside_a_stream_is_one_request(self, telemetry: Telemetry, trained: Language) -> None:
        first = make_pipeline(name="first")
        assert len(list(trained.pipe(first.pipe(["one", "two"])))) == 2
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=2)]
        assert telemetry.counts() == {("spacy", "en_tiny", "pipe"): 1}

    def test_two_streams_in_step(self, telemetry: Telemetry, trained: Language) -> None:
        streams = zip(trained.pipe(["a", "b"]), trained.pipe(["c", "d"]), strict=True)
        assert [(left.text, right.text) for left, right in streams] == [("a", "c"), ("b", "d")]
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=2)] * 2

    @pytest.mark.parametrize("how", ["close", "drop", "break"])
    def test_one_that_is_left_is_cancelled(self, telemetry: Telemetry, trained: Language, how: str) -> None:
        stream = trained.pipe(["one", "two", "three"], batch_size=1)
        for _ in stream:
            break
        if how == "close":
            stream.close()
        del stream
        gc.collect()
        wait_until(telemetry.spans)
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=1, error="cancelled")]
        assert telemetry.counts() == {("spacy", "en_tiny", "pipe", "cancelled"): 1}

    def test_one_that_is_never_begun_is_none(self, telemetry: Telemetry, trained: Language) -> None:
        trained.pipe(["one"])
        gc.collect()
        assert telemetry.spans() == []

    def test_errors(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_failing")
        with pytest.raises(TypeError):
            nlp.pipe()
        with pytest.raises(LookupError):
            list(nlp.pipe(["good", "bad"], batch_size=1))
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=1, device=None, error="LookupError")]

    def test_an_error_in_the_users_texts(self, telemetry: Telemetry, trained: Language) -> None:
        def texts() -> Iterator[str]:
            yield "one"
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            list(trained.pipe(texts(), batch_size=1))
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=1, error="OSError")]

    def test_texts_that_an_error_handler_leaves_out(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_failing")
        nlp.set_error_handler(lambda *arguments: None)
        assert [each.text for each in nlp.pipe(["good", "bad", "fine"])] == ["good", "fine"]
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=2, device=None)]

    def test_an_iteration_that_goes_on_in_another_thread(
        self, telemetry: Telemetry, trained: Language
    ) -> None:
        stream = trained.pipe(["one", "two"], batch_size=1)
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            assert len(pool.submit(list, stream).result()) == 1
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=2)]

    def test_worker_processes(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline("aimon_test_model")
        assert len(list(nlp.pipe(["text"] * 5, n_process=2, batch_size=2))) == 5
        assert telemetry.spans() == [span("pipe", "en_tiny", batch=5, device=None)]
        stream = nlp.pipe(["text"] * 5, n_process=2, batch_size=1)
        next(stream)
        stream.close()
        assert telemetry.spans()[1:] == [span("pipe", "en_tiny", batch=1, device=None, error="cancelled")]


class TestSilence:
    def test_training(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline()
        nlp.add_pipe("textcat")
        examples = [
            Example.from_dict(nlp.make_doc(text), {"cats": {"GOOD": good, "BAD": 1 - good}})
            for text, good in (("fine words", 1.0), ("poor words", 0.0))
        ]
        optimizer = nlp.initialize(lambda: examples)
        nlp.update(examples, sgd=optimizer)
        nlp.rehearse(examples, sgd=nlp.resume_training())
        assert "cats_score" in nlp.evaluate(examples)
        assert telemetry.spans() == []
        assert telemetry.counts() == {}

    @pytest.mark.parametrize("ruler", ["entity_ruler", "span_ruler"])
    def test_patterns_of_a_ruler(self, telemetry: Telemetry, ruler: str) -> None:
        nlp = make_pipeline()
        nlp.add_pipe(ruler).add_patterns([{"label": "ORG", "pattern": "some company"}] * 2)
        assert telemetry.spans() == []
        nlp("some company")
        assert telemetry.spans() == [span("call", "en_tiny", batch=1)]


def _attributes() -> dict[tuple[Any, str], Any]:
    return {
        (owner, name): value
        for owner in (Language, EntityRuler, SpanRuler, spacy.language)
        for name, value in vars(owner).items()
    }


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def seen() -> Any:
            methods = [Language.__call__, Language.pipe, Language.update, Language.evaluate]
            return [
                (each.__qualname__, each.__doc__, str(inspect.signature(each)), inspect.isfunction(each))
                for each in methods
            ]

        before = seen()
        with Telemetry(frameworks=("spacy",)):
            assert seen() == before

    def test_pipelines_and_bound_methods_pickle(self, telemetry: Telemetry, trained: Language) -> None:
        bound = pickle.loads(pickle.dumps(trained.pipe))
        assert bound.__func__ is Language.pipe
        copies = [pickle.loads(pickle.dumps(trained)), copy.copy(trained), copy.deepcopy(trained)]
        expected = trained("text").cats
        assert [each("text").cats for each in copies] == [expected] * 3
        assert [each.cats for each in bound(["text"])] == [expected]
        assert telemetry.spans() == [
            *[span("call", "en_tiny", batch=1)] * 4,
            span("pipe", "en_tiny", batch=1),
        ]

    def test_nothing_is_kept_alive(self, telemetry: Telemetry) -> None:
        nlp = make_pipeline()
        stream = nlp.pipe(document for document in [nlp.make_doc("text")])
        document = next(stream)
        list(stream)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (nlp, stream)]
        references = sys.getrefcount(document)
        del nlp, stream
        gc.collect()
        assert [each() for each in watched] == [None, None]
        # The variable and the argument of the call.
        assert references == 2

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with Telemetry(frameworks=("spacy",)):
            changed = {name for (_, name), value in _attributes().items() if value is not before[_, name]}
        after = _attributes()
        assert changed == {
            *("__call__", "pipe", "update", "rehearse", "evaluate", "initialize"),
            *("add_patterns", "_apply_pipes"),
        }
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_streams_kept_from_before(self, trained: Language) -> None:
        with Telemetry(frameworks=("spacy",)) as telemetry:
            begun, waiting = trained.pipe(["a", "b"]), trained.pipe(["a", "b"])
            next(begun)
        assert len(list(begun)) == 1
        assert len(list(waiting)) == 2
        assert telemetry.spans() == []


def test_workers_that_are_spawned(tmp_path: Any) -> None:
    """They import everything anew, and have no otel-aimon."""
    found = scripts.run(
        tmp_path,
        """
        import json, multiprocessing
        import spacy
        from tests.support.telemetry import Telemetry

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            with Telemetry(frameworks=("spacy",)) as telemetry:
                nlp = spacy.blank("en")
                texts = [each.text for each in nlp.pipe(["a", "b", "c"], n_process=2, batch_size=1)]
                spans = [(each["name"], each["attributes"]["aimon.batch.size"]) for each in telemetry.spans()]
                print(json.dumps([texts, spans]))
        """,
    )
    assert found == [["a", "b", "c"], [["pipe en_pipeline", 3]]]


def test_a_service_without_a_line_changed() -> None:
    spans, counted, errors = served(
        "import spacy\n"
        "nlp = spacy.blank('en')\n"
        "nlp('some text')\n"
        "for document in nlp.pipe(['one', 'two', 'three']): pass\n"
        "for document in nlp.pipe(['one', 'two'], n_process=2, batch_size=1): pass\n"
    )
    assert "Traceback" not in errors
    assert spans == [("call en_pipeline", 1), ("pipe en_pipeline", 2), ("pipe en_pipeline", 3)]
    assert counted == {("spacy", "call", "en_pipeline"): 1, ("spacy", "pipe", "en_pipeline"): 2}
