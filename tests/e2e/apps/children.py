"""Three requests in the parent, then two in each of two children: ``python children.py spawn|fork|os.fork``."""

import multiprocessing
import os
import sys

import otel_aimon


def serve(number: int) -> None:
    for _ in range(number):
        with otel_aimon.inference("classify", model="child"):
            pass


if __name__ == "__main__":
    serve(3)
    if sys.argv[1] == "os.fork":
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
        context = multiprocessing.get_context(sys.argv[1])
        processes = [context.Process(target=serve, args=(2,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    serve(1)
