"""The hot path: one :class:`~otel_aimon.core.inference.Inference` per request, one queue append."""
