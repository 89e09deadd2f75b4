"""Forks when it is told to, and lets the child serve two requests; both end when they are told to."""

import os
import sys

import otel_aimon


def serve(number: int) -> None:
    for _ in range(number):
        with otel_aimon.inference("classify", model="child"):
            pass


serve(3)
print("served", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    serve(2)
    sys.exit(0)
print("forked", flush=True)
assert os.waitpid(child, 0)[1] == 0
