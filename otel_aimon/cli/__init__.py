"""The command ``otel-aimon``."""
