"""Runs a module as ``python -m`` does, in a process in which otel-aimon can be switched off and on again.

    opentelemetry-instrument python benchmarks/switched.py PORT MODULE [ARGUMENT ...]

Who connects to the port with :mod:`multiprocessing.connection` sends True or False, and gets the number of requests that were
observed since the last time. Two processes of one program differ by percents of speed, by where their memory happens to lie;
one process that is switched does not.
"""

from __future__ import annotations

import runpy
import sys
import threading
from multiprocessing.connection import Listener

KEY = b"otel-aimon"


def obey(listener):
    with listener, listener.accept() as switch:
        while True:
            try:
                wanted = switch.recv()
            except EOFError:
                return
            switch.send(turn(wanted))


def turn(wanted):
    import otel_aimon
    from otel_aimon import runtime

    running = runtime.current()
    if wanted:
        otel_aimon.instrument()
    else:
        otel_aimon.uninstrument()
    return 0 if running is None else running.pipeline.observations


def main():
    port, module = int(sys.argv[1]), sys.argv[2]
    listener = Listener(("127.0.0.1", port), authkey=KEY)
    threading.Thread(target=obey, args=(listener,), daemon=True).start()
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
