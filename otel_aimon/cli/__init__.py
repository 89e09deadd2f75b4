"""The command ``otel-aimon``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from otel_aimon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMANDS = {
    "demo": "run a real service under load and show what arrives",
    "doctor": "say what is seen here, what will be emitted, and what is wrong",
}
"""Command → what it does. ``otel_aimon.cli.<command>`` has its ``add_arguments`` and ``run``."""

_INTERRUPTED = 130

_PLAIN = str.maketrans({"≤": "<=", "µ": "u", "…": "."})
"""What to write where the output cannot hold a sign."""


class CommandError(Exception):
    """What stops a command; its text is one sentence for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit status: 0 for success, 1 for a failure, 130 when it was interrupted.
    """
    parser = argparse.ArgumentParser(prog="otel-aimon", description="Watch AI models serve inference.")
    parser.add_argument("--version", action="version", version=f"otel-aimon {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    words = sys.argv[1:] if arguments is None else arguments
    runs = {}
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=f"{about.capitalize()}.")
        if name in words:
            # The others are not imported: what one of them lacks must not stop this one.
            module = importlib.import_module(f"otel_aimon.cli.{name}")
            module.add_arguments(command)
            runs[name] = module.run
    options = parser.parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            status: int = runs[options.command](options)
            return status
    except CommandError as error:
        problem = str(error)
    except OSError as error:
        problem = str(error)
    except KeyboardInterrupt:
        _complain(f"\notel-aimon {options.command}: stopped")
        return _INTERRUPTED
    _complain(f"otel-aimon {options.command}: {problem}")
    return 1


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # The terminal may have gone, which is why the command stopped.
        print(text, file=sys.stderr)


def show(text: str) -> None:
    """Print a command's result.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        print(_writable(text), flush=True)
    except OSError as error:
        # What is still in the buffer must not make the interpreter complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"the output cannot be written ({error.strerror})") from error


def _writable(text: str) -> str:
    """``text`` in signs that the encoding of the output has."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, or a terminal that is closed, stops a command as Ctrl-C does: no process is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    # What nohup ignores stays ignored, and a handler that is not Python's could not be put back.
    before = {
        number: handler for number, handler in handlers.items() if handler not in {signal.SIG_IGN, None}
    }
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
