"""The wheel is pure Python, holds what it needs, and works where the platform lacks what Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from otel_aimon.cli.receiver import Receiver
from tests.e2e.processes import counts_by_process, environment, our_spans, spans_by_process

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_it_is_pure_python_and_typed(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "otel_aimon/py.typed" in names
    assert "otel_aimon/cli/_service/service.py" in names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "benchmarks/"))]


def test_it_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    code = (
        "import otel_aimon, otel_aimon.cli; otel_aimon.instrument()\n"
        "with otel_aimon.inference('chat'): pass\n"
        "assert 'env' in otel_aimon.__file__, otel_aimon.__file__\n"
        "print(otel_aimon.__version__)"
    )
    # The dependencies are those of this environment; the package itself comes from the wheel.
    environ = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        [python, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_it_works_where_processes_cannot_fork(tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(
        "import os; del os.register_at_fork, os.fork\n"
        "from opentelemetry.instrumentation import auto_instrumentation\n"
        "auto_instrumentation.initialize()\n"
        "import otel_aimon\n"
        "for _ in range(3):\n"
        "  with otel_aimon.inference('chat', model='m'): pass\n"
    )
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment(receiver.http_endpoint),
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(our_spans(receiver)) == 3
    assert counts_by_process(receiver) == spans_by_process(receiver)
