"""Three requests in the parent, two in each of two children, one more in the parent.

``python children.py spawn|fork|os.fork [exported]``; with ``exported``, the parent has exported before it forks.
"""

import multiprocessing
import os
import sys

from opentelemetry import metrics, trace

import otel_aimon


def serve(number: int) -> None:
    for _ in range(number):
        with otel_aimon.inference("classify", model="child"):
            pass


if __name__ == "__main__":
    method, *more = sys.argv[1:]
    serve(3)
    if more:
        assert trace.get_tracer_provider().force_flush()
        assert metrics.get_meter_provider().force_flush()
    if method == "os.fork":
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                serve(2)
                sys.exit(0)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
    else:
        context = multiprocessing.get_context(method)
        processes = [context.Process(target=serve, args=(2,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    serve(1)
