"""Triton's client, which asks any server that speaks the KServe v2 protocol: each inference is one request to a remote model.

Four clients share one interface: HTTP and gRPC, each blocking and for asyncio.
"""

from otel_aimon.instrumentation.tritonclient_grpc import hook_grpc, hook_grpc_aio, hook_streams
from otel_aimon.instrumentation.tritonclient_http import hook_http, hook_http_aio

__all__ = ["hook_grpc", "hook_grpc_aio", "hook_http", "hook_http_aio", "hook_streams"]
