"""Every name that leaves the process, spelled once: attributes, metrics, units and buckets.

Names come from the OpenTelemetry semantic conventions where these have one (``gen_ai.*``,
``error.type``); ``aimon.*`` holds only what they lack. The ``gen_ai`` names are kept here
because their Python constants are deprecated and have no successor package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCOPE: Final = "otel_aimon"
"""Name of our instrumentation scope: tracer, meter and logger."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
"""The last schema of the core conventions that still held ``gen_ai``."""

# --- attributes of spans and metric points -----------------------------------------------------

ERROR_TYPE: Final = "error.type"
ERROR_TYPE_CANCELLED: Final = "cancelled"
ERROR_TYPE_OTHER: Final = "_OTHER"

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

AIMON_FRAMEWORK: Final = "aimon.framework"
AIMON_OPERATION: Final = "aimon.operation"
AIMON_MODEL_NAME: Final = "aimon.model.name"
AIMON_BATCH_SIZE: Final = "aimon.batch.size"
AIMON_DEVICE: Final = "aimon.device"
AIMON_QUANTILE: Final = "quantile"
AIMON_TIME_TO_FIRST_TOKEN: Final = "aimon.time_to_first_token"
AIMON_QUEUE_DURATION: Final = "aimon.queue.duration"

OTHER: Final = "other"
"""The model name that stands for all names past the cap."""

# --- operations that the gen_ai conventions know -----------------------------------------------

CHAT: Final = "chat"
TEXT_COMPLETION: Final = "text_completion"
GENERATE_CONTENT: Final = "generate_content"
EMBEDDINGS: Final = "embeddings"

GENERATIVE_OPERATIONS: Final = frozenset({CHAT, TEXT_COMPLETION, GENERATE_CONTENT})
"""Operations whose requests have a first token and a time per output token."""

GEN_AI_OPERATIONS: Final = GENERATIVE_OPERATIONS | {EMBEDDINGS}
"""Operations that feed ``gen_ai.server.*``."""

# --- buckets -----------------------------------------------------------------------------------

DURATION_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Seconds. From a small classifier (half a millisecond) to a long generation (two minutes)."""

BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

GEN_AI_DURATION_BUCKETS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""As the convention advises for ``gen_ai.server.request.duration``."""

TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""As the convention advises for ``gen_ai.server.time_to_first_token``."""

TPOT_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
"""As the convention advises for ``gen_ai.server.time_per_output_token``."""

# --- metrics -----------------------------------------------------------------------------------

Kind = Literal["histogram", "counter", "observable_gauge", "observable_updowncounter", "observable_counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it is exported.

    Attributes:
        name: The exported name.
        kind: The OpenTelemetry instrument that carries it.
        unit: UCUM unit.
        description: One sentence for people.
        attributes: Keys that its points may bear; at most five, all from bounded sets.
        buckets: Explicit bucket boundaries, for histograms.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


_MODEL = (AIMON_FRAMEWORK, AIMON_OPERATION, AIMON_MODEL_NAME)
_GEN_AI = (GEN_AI_OPERATION_NAME, GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL)

INFERENCE_DURATION: Final = Metric(
    "aimon.inference.duration", "histogram", "s",
    "Time from the submission of an inference request to its completion.",
    (*_MODEL, ERROR_TYPE), DURATION_BUCKETS,
)  # fmt: skip
INFERENCE_ACTIVE: Final = Metric(
    "aimon.inference.active", "observable_updowncounter", "{request}",
    "Inference requests in flight.", _MODEL,
)  # fmt: skip
INFERENCE_THROUGHPUT: Final = Metric(
    "aimon.inference.throughput", "observable_gauge", "{request}/s",
    "Completed requests per second over the last window.", _MODEL,
)  # fmt: skip
INFERENCE_ERROR_RATIO: Final = Metric(
    "aimon.inference.error.ratio", "observable_gauge", "1",
    "Failed requests divided by all requests over the last window; cancelled requests are not failures.",
    _MODEL,
)  # fmt: skip
INFERENCE_LATENCY_QUANTILE: Final = Metric(
    "aimon.inference.latency.quantile", "observable_gauge", "s",
    "Latency quantile of the requests completed in the last window.", (*_MODEL, AIMON_QUANTILE),
)  # fmt: skip
INFERENCE_BATCH_SIZE: Final = Metric(
    "aimon.inference.batch.size", "histogram", "{item}",
    "Items that one inference request carried.", _MODEL, BATCH_BUCKETS,
)  # fmt: skip
INFERENCE_TOKENS: Final = Metric(
    "aimon.inference.tokens", "counter", "{token}",
    "Tokens processed, counted from the ids that the framework holds.", (*_MODEL, GEN_AI_TOKEN_TYPE),
)  # fmt: skip
INFERENCE_QUEUE_SIZE: Final = Metric(
    "aimon.inference.queue.size", "observable_gauge", "{request}",
    "Requests that wait in the framework's own queue.", _MODEL,
)  # fmt: skip
INFERENCE_QUEUE_DURATION: Final = Metric(
    "aimon.inference.queue.duration", "histogram", "s",
    "Time that a request waited in the framework's own queue.", _MODEL, DURATION_BUCKETS,
)  # fmt: skip
INFERENCE_STAGE_DURATION: Final = Metric(
    "aimon.inference.stage.duration", "histogram", "s",
    "Time spent in one nested layer of a request.", (*_MODEL, ERROR_TYPE), DURATION_BUCKETS,
)  # fmt: skip
SERVER_REQUEST_DURATION: Final = Metric(
    "gen_ai.server.request.duration", "histogram", "s",
    "Generative AI server request duration such as time-to-last byte or last output token.",
    (*_GEN_AI, ERROR_TYPE), GEN_AI_DURATION_BUCKETS,
)  # fmt: skip
SERVER_TIME_TO_FIRST_TOKEN: Final = Metric(
    "gen_ai.server.time_to_first_token", "histogram", "s",
    "Time to generate first token for successful responses.", _GEN_AI, TTFT_BUCKETS,
)  # fmt: skip
SERVER_TIME_PER_OUTPUT_TOKEN: Final = Metric(
    "gen_ai.server.time_per_output_token", "histogram", "s",
    "Time per output token generated after the first token for successful responses.", _GEN_AI, TPOT_BUCKETS,
)  # fmt: skip
CLIENT_OPERATION_DURATION: Final = Metric(
    "gen_ai.client.operation.duration", "histogram", "s",
    "GenAI operation duration.", (*_GEN_AI, ERROR_TYPE), GEN_AI_DURATION_BUCKETS,
)  # fmt: skip
SELFMON_CPU_TIME: Final = Metric(
    "aimon.selfmon.cpu.time", "observable_counter", "s",
    "CPU time that otel-aimon's own thread has used.",
)  # fmt: skip
SELFMON_OBSERVATIONS: Final = Metric(
    "aimon.selfmon.observations", "observable_counter", "{observation}",
    "Observations that went through the pipeline.",
)  # fmt: skip
SELFMON_QUEUE_DEPTH: Final = Metric(
    "aimon.selfmon.queue.depth", "observable_gauge", "{observation}",
    "Observations that wait for the pipeline thread.",
)  # fmt: skip
SELFMON_CALLER_DRAINS: Final = Metric(
    "aimon.selfmon.caller_drains", "observable_counter", "{drain}",
    "Times that the queue was full and a caller drained a batch itself; nothing is lost.",
)  # fmt: skip
SELFMON_ERRORS: Final = Metric(
    "aimon.selfmon.errors", "observable_counter", "{error}",
    "Errors of otel-aimon that were kept from the application.",
)  # fmt: skip
SELFMON_MODELS_OVERFLOW: Final = Metric(
    "aimon.selfmon.models.overflow", "observable_counter", "{request}",
    "Look-ups of a model name past the cap, recorded under the name 'other'.",
)  # fmt: skip

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics, for docs and for the test that every documented name is emitted."""

QUANTILES: Final = (0.5, 0.95, 0.99)
