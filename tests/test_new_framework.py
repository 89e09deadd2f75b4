"""The example of a new framework works as it stands, and as it is after the steps that its text says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import environment, our_spans, run

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "new_framework"


def pytest_in(folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def declared(folder: Path) -> Path:
    """A directory that says what is said of a distribution that is installed."""
    project = (folder / "pyproject.toml").read_text()
    found = re.search(r"\[project\.entry-points\.opentelemetry_instrumentor\]\n(.*?)\n\n", project, re.DOTALL)
    name = re.search(r'^name = "(.*)"', project, re.MULTILINE)
    assert found is not None
    assert name is not None
    info = folder / "installed" / f"{name[1].replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name[1]}\nVersion: 0.1.0\n")
    points = found[1].replace('"', "")
    (info / "entry_points.txt").write_text(f"[opentelemetry_instrumentor]\n{points}\n")
    return info.parent


def copied(folder: Path) -> Path:
    """What the first step of the text makes: the commands are run as they are written."""
    block = re.search(r"```console\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert block is not None
    lines = block[1].strip().splitlines()
    (folder / "otel-aimon" / "examples").mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLE, folder / "otel-aimon" / "examples" / "new_framework", ignore=ignored)
    assert lines.pop().strip() == "rm -r tinyengine && pip install -e . pytest foo"
    # The real framework, which pip would bring, is the invented one by another name.
    lines += ["mv tinyengine foo", "sed -i 's/tinyengine/foo/g; s/TinyEngine/Foo/g' foo/*.py"]
    subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=folder / "otel-aimon", check=True)
    return folder / "foo-aimon"


class Served:
    """What came out of the application, in a process of its own under ``opentelemetry-instrument``."""

    def __init__(self, folder: Path, **environ: str) -> None:
        with Receiver() as receiver:
            env = environment(receiver.http_endpoint, **environ)
            paths = (str(folder), str(declared(folder)), str(ROOT), env["PYTHONPATH"])
            done = run("python", str(folder / "app.py"), env={**env, "PYTHONPATH": os.pathsep.join(paths)})
            spans = sorted(our_spans(receiver), key=lambda span: span.start_ns)
            self._points = receiver.received
        self.stdout, self.stderr = done.stdout, done.stderr
        names = {span.span_id: span.name for span in spans}
        self.spans = [
            (span.name, span.kind, names.get(span.parent_id), span.status, _seen(span.attributes))
            for span in spans
        ]

    def values(self, metric: str, field: str = "count") -> Counter[tuple[Any, ...]]:
        found: Counter[tuple[Any, ...]] = Counter()
        for point in self._points.latest_points(metric):
            found[tuple(value for _, value in sorted(point.attributes.items()))] += getattr(point, field)
        return found


def _seen(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value > 0 if key == "aimon.time_to_first_token" else value for key, value in attributes.items()
    }


def span(framework: str, operation: str, error: str | None = None, **known: Any) -> tuple[Any, ...]:
    attributes = {
        "aimon.framework": framework,
        "aimon.operation": operation,
        "aimon.model.name": "adder",
        "aimon.device": "cpu",
        **{name.replace("__", "."): value for name, value in known.items()},
    }
    if operation == "text_completion":
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": framework,
            "gen_ai.request.model": "adder",
        }
    if error:
        attributes["error.type"] = error
    status = 2 if error and error != "cancelled" else 0
    return f"{operation} adder", 1, None, status, attributes


def check_whole_telemetry(served: Served, framework: str) -> None:
    def generated(read: int, written: int, error: str | None = None) -> tuple[Any, ...]:
        first = {"aimon__time_to_first_token": True} if written else {}
        return span(
            framework, "text_completion", error, aimon__batch__size=1,
            gen_ai__usage__input_tokens=read, gen_ai__usage__output_tokens=written, **first,
        )  # fmt: skip

    refused = f"{framework}.model.PromptTooLongError"
    assert served.stderr == ""
    assert served.stdout.splitlines() == ["[3.0, 7.0]", "[5, 6, 7]"]
    assert served.spans == [
        span(framework, "predict", aimon__batch__size=2),
        generated(2, 3),
        generated(1, 1, "cancelled"),
        generated(17, 0, refused),
    ]
    series = (framework, "adder", "text_completion")
    assert served.values("aimon.inference.duration") == {
        (framework, "adder", "predict"): 1,
        series: 1,
        (*series, "cancelled"): 1,
        (*series, refused): 1,
    }
    assert served.values("aimon.inference.tokens", "value") == {
        (*series, "input"): 20,
        (*series, "output"): 4,
    }
    assert served.values("aimon.inference.batch.size", "total") == {
        (framework, "adder", "predict"): 2,
        series: 3,
    }


def test_its_own_tests_pass() -> None:
    done = pytest_in(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)


def test_its_telemetry_in_a_process_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    check_whole_telemetry(Served(tmp_path / "example"), "tinyengine")


def test_after_the_steps_that_its_text_says(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    done = pytest_in(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    left = [
        path.name
        for path in [*folder.rglob("*.py"), *folder.rglob("*.toml"), *folder.glob("docs/*")]
        if "tinyengine" in (path.name + path.read_text()).lower()
    ]
    assert left == []
    check_whole_telemetry(Served(folder), "foo")


@pytest.mark.parametrize(
    ("environ", "requests"),
    [
        ({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "aimon_tinyengine"}, 0),
        ({"OTEL_AIMON_FRAMEWORKS": "torch"}, 0),
        ({"OTEL_AIMON_FRAMEWORKS": "tinyengine"}, 4),
    ],
)
def test_it_is_switched_as_ours_are(tmp_path: Path, environ: dict[str, str], requests: int) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    served = Served(tmp_path / "example", **environ)
    assert len(served.spans) == requests
    assert served.stderr == ""
    assert served.stdout.splitlines() == ["[3.0, 7.0]", "[5, 6, 7]"]


def test_every_file_is_in_its_table() -> None:
    text = (EXAMPLE / "README.md").read_text()
    linked = set(re.findall(r"\]\(((?!\.\.|http)[^)]+)\)", text))
    files = {
        path.relative_to(EXAMPLE).as_posix()
        for path in EXAMPLE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "README.md"
    }
    assert files - linked == {"tinyengine/__init__.py"}
    assert linked <= files


def test_contributors_are_sent_to_it_and_shown_what_it_says() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert "](examples/new_framework/README.md)" in text
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    hooks = {line.strip() for line in (EXAMPLE / "tinyengine_aimon" / "hooks.py").read_text().splitlines()}
    shown = {line.strip() for line in block[1].splitlines()}
    assert shown - hooks == set()
