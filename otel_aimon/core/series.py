"""Everything about a (framework, operation, model) that can be decided before a request comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from otel_aimon import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes = dict[str, str]


class Series:
    """Names and attribute sets bound once, so that a request only looks them up.

    Attributes:
        framework: Key in the registry, or ``manual``.
        operation: What the model does, in the framework's or the convention's word.
        model: Cleaned, capped model name.
        gen_ai_operation: The operation in the gen_ai conventions' words, where they have one.
        span_name: ``{operation} {model}``.
        kind: INTERNAL for a model in this process, CLIENT for a client of a remote one.
        start_attributes: What samplers see of a span: the conventions' names, or ours where they have none.
        end_attributes: The others that are known beforehand; they are set with the end, for which no caller waits.
        attributes: Metric attributes of ``aimon.inference.*``.
        gen_ai_attributes: Metric attributes of ``gen_ai.*``; empty where these do not apply.
        active: Requests in flight: identity → start on the monotonic clock, in nanoseconds.
            Single dictionary operations are atomic, so it needs no lock, and it holds no
            request alive.
        active_stages: Stages in flight, likewise.
        progress_ns: When output of one of its requests came out last, on the monotonic clock; 0 before.
        in_process: Requests of this series run here, so that how many are in flight is known.
    """

    __slots__ = (
        "_by_error",
        "_by_token_type",
        "_gen_ai_by_error",
        "_gen_ai_by_token_type",
        "active",
        "active_stages",
        "attributes",
        "end_attributes",
        "framework",
        "gen_ai_attributes",
        "gen_ai_operation",
        "generative",
        "in_process",
        "kind",
        "model",
        "operation",
        "progress_ns",
        "provider",
        "span_name",
        "start_attributes",
    )

    def __init__(
        self,
        framework: str,
        operation: str,
        model: str,
        *,
        gen_ai_operation: str | None = None,
        provider: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        if gen_ai_operation is None and operation in semconv.GEN_AI_OPERATIONS:
            gen_ai_operation = operation
        self.framework = framework
        self.operation = operation
        self.model = model
        self.provider = provider or framework
        self.kind = kind
        self.gen_ai_operation = gen_ai_operation
        self.generative = gen_ai_operation in semconv.GENERATIVE_OPERATIONS
        self.span_name = f"{gen_ai_operation or operation} {model}"
        self.attributes: Attributes = {
            semconv.AIMON_FRAMEWORK: framework,
            semconv.AIMON_OPERATION: operation,
            semconv.AIMON_MODEL_NAME: model,
        }
        self.gen_ai_attributes: Attributes = {}
        if gen_ai_operation is not None:
            self.gen_ai_attributes = {
                semconv.GEN_AI_OPERATION_NAME: gen_ai_operation,
                semconv.GEN_AI_PROVIDER_NAME: self.provider,
                semconv.GEN_AI_REQUEST_MODEL: model,
            }
        self.start_attributes: Mapping[str, str] = self.gen_ai_attributes or self.attributes
        self.end_attributes: Mapping[str, str] = self.attributes if self.gen_ai_attributes else {}
        self.active: dict[int, int] = {}
        self.progress_ns = 0
        self.active_stages: dict[int, int] = {}
        self.in_process = False
        self._by_error: dict[str, Attributes] = {}
        self._gen_ai_by_error: dict[str, Attributes] = {}
        self._by_token_type: dict[str, Attributes] = {
            kind_: {**self.attributes, semconv.GEN_AI_TOKEN_TYPE: kind_}
            for kind_ in ("input", "output", "cached")
        }
        self._gen_ai_by_token_type: dict[str, Attributes] = {
            kind_: {**self.gen_ai_attributes, semconv.GEN_AI_TOKEN_TYPE: kind_}
            for kind_ in ("input", "output")
        }

    def with_error(self, error_type: str | None) -> Attributes:
        """Metric attributes of ``aimon.inference.*`` for an outcome."""
        if error_type is None:
            return self.attributes
        found = self._by_error.get(error_type)
        if found is None:
            found = self._by_error[error_type] = {**self.attributes, semconv.ERROR_TYPE: error_type}
        return found

    def gen_ai_with_error(self, error_type: str | None) -> Attributes:
        """Metric attributes of ``gen_ai.*`` for an outcome."""
        if error_type is None:
            return self.gen_ai_attributes
        found = self._gen_ai_by_error.get(error_type)
        if found is None:
            found = self._gen_ai_by_error[error_type] = {
                **self.gen_ai_attributes,
                semconv.ERROR_TYPE: error_type,
            }
        return found

    def with_token_type(self, token_type: str) -> Attributes:
        """Metric attributes of ``aimon.inference.tokens``."""
        return self._by_token_type[token_type]

    def gen_ai_with_token_type(self, token_type: str) -> Attributes:
        """Metric attributes of ``gen_ai.client.token.usage``."""
        return self._gen_ai_by_token_type[token_type]
