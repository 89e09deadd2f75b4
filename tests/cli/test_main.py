"""The command line as such."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from otel_aimon import cli
from otel_aimon.cli import demo, main
from otel_aimon.version import __version__

COMMAND = str(Path(sys.executable).with_name("otel-aimon"))


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "otel_aimon"]])
def test_the_version(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"otel-aimon {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: command"),
        (["nonsense"], "invalid choice"),
        (["demo", "--seconds", "0"], "must be between 1 and 3600"),
        (["demo", "--seconds", "soon"], "invalid"),
        (["demo", "--port", "70000"], "must be between 0 and 65535"),
        (["demo", "--protocol", "smtp"], "invalid choice"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: otel-aimon {command}")


def test_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_options: object) -> int:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(demo, "run", run)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "otel-aimon demo: [Errno 13] Permission denied: '/somewhere'\n"


def test_an_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", run)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "\notel-aimon demo: stopped\n"


def test_a_thread_that_is_not_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", lambda _options: 7)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(main(["demo"])))
    thread.start()
    thread.join()
    assert found == [7]


def test_an_output_that_lacks_signs() -> None:
    code = "from otel_aimon.cli import show; show('≤ 2.5 µs, mod…, Größe')"
    shown = {
        encoding: subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONIOENCODING": encoding}, stdout=subprocess.PIPE, check=True,
        ).stdout.decode(encoding)
        for encoding in ("ascii", "latin-1", "utf-8")
    }  # fmt: skip
    assert shown == {
        "ascii": "<= 2.5 us, mod., Gr??e\n",
        "latin-1": "<= 2.5 us, mod., Größe\n",
        "utf-8": "≤ 2.5 µs, mod…, Größe\n",
    }


def test_a_command_that_shall_outlive_its_terminal() -> None:
    code = (
        "import os, signal; from otel_aimon.cli import demo, main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "demo.run = lambda options: os.kill(os.getpid(), signal.SIGHUP) or 7\n"
        "raise SystemExit(main(['demo']))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


def test_a_reader_that_has_gone() -> None:
    code = (
        "import sys; from otel_aimon.cli import demo, main\n"
        "from otel_aimon.cli import show\n"
        "demo.run = lambda options: show('x' * 1_000_000)\n"
        "sys.exit(main(['demo']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "otel-aimon demo: the output cannot be written (Broken pipe)\n"
