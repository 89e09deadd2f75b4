"""Every example runs as its text says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from otel_aimon.cli.receiver import Receiver

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
LAUNCHER = str(Path(sys.executable).with_name("opentelemetry-instrument"))

BY_HAND = {
    ("chat parrot", None): 1,
    ("classify is-it-long", None): 1,
    ("classify is-it-long", "ValueError"): 1,
    ("text_completion speller", None): 1,
    ("text_completion speller", "cancelled"): 1,
    ("embeddings lengths", None): 1,
}


def run(*command: str, **environ: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        command, env={**inherited, **environ}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_by_hand() -> None:
    with Receiver() as receiver:
        out = run(
            LAUNCHER, sys.executable, "examples/by_hand.py",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )  # fmt: skip
    spans = receiver.received.spans
    assert Counter((span.name, span.attributes.get("error.type")) for span in spans) == BY_HAND
    (chat,) = (span.attributes for span in spans if span.name == "chat parrot")
    assert chat["gen_ai.usage.input_tokens"] == 1
    assert chat["gen_ai.usage.output_tokens"] == 4
    assert chat["gen_ai.response.finish_reasons"] == ("stop",)
    assert out.splitlines() == [
        "hello to you too",
        "True",
        "refused: there is no text",
        "w-o-r-d",
        "a",
        "[3, 5]",
    ]


def test_by_hand_changes_nothing_without_telemetry() -> None:
    assert run(sys.executable, "examples/by_hand.py").splitlines()[0] == "hello to you too"


def test_programmatic() -> None:
    out = run(sys.executable, "examples/programmatic.py")
    assert out.count('"name": "predict RandomForestClassifier"') == 5
    assert out.splitlines()[-1].startswith("RandomForestClassifier: 5 requests, mean 0.")


def test_declarative() -> None:
    out = run(
        LAUNCHER, sys.executable, "examples/by_hand.py", OTEL_CONFIG_FILE="examples/declarative/otel.yaml"
    )
    shown = [line.strip() for line in out.splitlines()]
    for name in {name for name, _ in BY_HAND}:
        assert f'"name": "{name}",' in shown
    assert '"name": "aimon.inference.duration",' in shown
    assert '"service.name": "declarative-example",' in out.replace('example"\n', 'example",\n')


def test_declarative_settings_are_taken() -> None:
    code = (
        "from otel_aimon import runtime; running = runtime.current()\n"
        "print(running.settings.window, running.settings.frameworks)\n"
        "from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS as all_\n"
        "print(all_['torch']().is_instrumented_by_opentelemetry)"
    )
    out = run(LAUNCHER, sys.executable, "-c", code, OTEL_CONFIG_FILE="examples/declarative/otel.yaml")
    assert out.splitlines()[:2] == ["30.0 ('sklearn', 'onnxruntime')", "False"]


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    names = {
        path.relative_to(EXAMPLES).as_posix()
        for path in EXAMPLES.rglob("*")
        if path.suffix in {".py", ".yaml"} and "new_framework" not in path.parts
    }
    # The service and its rules are run by the tests of the demo, a new framework by those of its own.
    assert names == {"service.py", "alerts.yaml", "by_hand.py", "programmatic.py", "declarative/otel.yaml"}
    names.add("new_framework/README.md")
    assert [name for name in names if f"]({name})" not in listed] == []
