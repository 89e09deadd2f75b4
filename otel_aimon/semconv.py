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
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

AIMON_FRAMEWORK: Final = "aimon.framework"
AIMON_OPERATION: Final = "aimon.operation"
AIMON_MODEL_NAME: Final = "aimon.model.name"
AIMON_BATCH_SIZE: Final = "aimon.batch.size"
AIMON_DEVICE: Final = "aimon.device"
AIMON_QUANTILE: Final = "quantile"
AIMON_TIME_TO_FIRST_TOKEN: Final = "aimon.time_to_first_token"
AIMON_QUEUE_DURATION: Final = "aimon.queue.duration"
AIMON_PREFILL_DURATION: Final = "aimon.prefill.duration"
AIMON_DECODE_DURATION: Final = "aimon.decode.duration"
AIMON_COMPILE_DURATION: Final = "aimon.compile.duration"
AIMON_TIME_PER_OUTPUT_TOKEN: Final = "aimon.time_per_output_token"
AIMON_AUDIO_DURATION: Final = "aimon.audio.duration"
AIMON_AUDIO_SPEED: Final = "aimon.audio.speed"
AIMON_TIME_PER_ITEM: Final = "aimon.time_per_item"
AIMON_DIFFUSION_STEPS: Final = "aimon.diffusion.steps"
AIMON_DIFFUSION_TIME_PER_STEP: Final = "aimon.diffusion.time_per_step"
AIMON_ENGINE_ID: Final = "aimon.engine.id"

CPU_MODE: Final = "cpu.mode"
CONTEXT_SWITCH_TYPE: Final = "process.context_switch.type"
DISK_IO_DIRECTION: Final = "disk.io.direction"
NETWORK_IO_DIRECTION: Final = "network.io.direction"
PAGING_FAULT_TYPE: Final = "system.paging.fault.type"
PAGING_STATE: Final = "system.paging.state"
MEMORY_STATE: Final = "system.memory.state"

HW_ID: Final = "hw.id"
HW_NAME: Final = "hw.name"
HW_TYPE: Final = "hw.type"
HW_MODEL: Final = "hw.model"
HW_VENDOR: Final = "hw.vendor"
HW_PARENT: Final = "hw.parent"
HW_STATE: Final = "hw.state"
HW_GPU_TASK: Final = "hw.gpu.task"
HW_SENSOR_LOCATION: Final = "hw.sensor_location"

AIMON_RESOURCE: Final = "aimon.resource"
AIMON_PRESSURE_KIND: Final = "aimon.pressure.kind"
AIMON_GPU_UNIT: Final = "aimon.gpu.unit"
AIMON_GPU_CLOCK: Final = "aimon.gpu.clock"
AIMON_GPU_THROTTLE_REASON: Final = "aimon.gpu.throttle.reason"
AIMON_MEMORY_KIND: Final = "aimon.memory.kind"
AIMON_SOURCE: Final = "aimon.source"

OTHER: Final = "other"
"""The model name that stands for all names past the cap."""

# --- events about alerts -----------------------------------------------------------------------

ALERT_EVENT: Final = "aimon.alert"
ALERT_STORM_EVENT: Final = "aimon.alert.storm"

ALERT_ID: Final = "aimon.alert.id"
ALERT_FINGERPRINT: Final = "aimon.alert.fingerprint"
ALERT_RULE_NAME: Final = "aimon.alert.rule.name"
ALERT_RULE_VERSION: Final = "aimon.alert.rule.version"
ALERT_CATEGORY: Final = "aimon.alert.category"
ALERT_STATE: Final = "aimon.alert.state"
ALERT_PREVIOUS_STATE: Final = "aimon.alert.previous_state"
ALERT_REASON: Final = "aimon.alert.reason"
ALERT_SEVERITY: Final = "aimon.alert.severity"
ALERT_SIGNAL: Final = "aimon.alert.signal"
ALERT_UNIT: Final = "aimon.alert.unit"
ALERT_VALUE: Final = "aimon.alert.value"
ALERT_PEAK: Final = "aimon.alert.peak"
ALERT_THRESHOLD: Final = "aimon.alert.threshold"
ALERT_BASELINE: Final = "aimon.alert.baseline"
ALERT_SCORE: Final = "aimon.alert.score"
ALERT_WINDOW: Final = "aimon.alert.window"
ALERT_FOR: Final = "aimon.alert.for"
ALERT_SAMPLES: Final = "aimon.alert.samples"
ALERT_STARTED_AT: Final = "aimon.alert.started_at"
ALERT_DURATION: Final = "aimon.alert.duration"
ALERT_BURN_RATE_LONG: Final = "aimon.alert.burn_rate.long"
ALERT_BURN_RATE_SHORT: Final = "aimon.alert.burn_rate.short"
ALERT_BUDGET_REMAINING: Final = "aimon.alert.budget_remaining"
ALERT_CAUSE: Final = "aimon.alert.cause"
ALERT_CAUSE_CONFIDENCE: Final = "aimon.alert.cause.confidence"
ALERT_FLAP_COUNT: Final = "aimon.alert.flap_count"
ALERT_HEARTBEAT: Final = "aimon.alert.heartbeat"
ALERT_INHIBITED_BY: Final = "aimon.alert.inhibited_by"
ALERT_CHILDREN: Final = "aimon.alert.children"
ALERT_EXEMPLAR_TRACE_IDS: Final = "aimon.alert.exemplar.trace_ids"
ALERT_STORM_WITHHELD: Final = "aimon.alert.storm.withheld"
ALERT_STORM_RULES: Final = "aimon.alert.storm.rules"

SLO_NAME: Final = "aimon.slo.name"
SLO_OUTCOME: Final = "aimon.slo.outcome"

# --- events about hints ------------------------------------------------------------------------

HINT_EVENT: Final = "aimon.hint"

HINT_KIND: Final = "aimon.hint.kind"
HINT_OLD: Final = "aimon.hint.old"
HINT_NEW: Final = "aimon.hint.new"
HINT_BASIS: Final = "aimon.hint.basis"
HINT_CONFIDENCE: Final = "aimon.hint.confidence"
HINT_LOWER_BOUND: Final = "aimon.hint.lower_bound"
HINT_VALID_UNTIL: Final = "aimon.hint.valid_until"
HINT_KV_TOKENS: Final = "aimon.hint.kv_tokens"
HINT_LONGEST_WAIT: Final = "aimon.hint.longest_wait"
HINT_BOTTLENECK: Final = "aimon.hint.bottleneck"
HINT_PREVIOUS_BOTTLENECK: Final = "aimon.hint.previous_bottleneck"
HINT_BOUND: Final = "aimon.hint.bound."
"""Begins the names of the bounds that are known, such as ``aimon.hint.bound.tpot``."""
HINT_EVIDENCE: Final = "aimon.hint.evidence."
"""Begins the names of what the hint rests on."""

LIMITER_MODE: Final = "aimon.limiter.mode"
LIMITER_OUTCOME: Final = "aimon.limiter.outcome"

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

AUDIO_SPEED_BUCKETS: Final = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
"""Around one, below which speech comes faster than it is worked off."""

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

TOKEN_USAGE_BUCKETS: Final = tuple(float(4**power) for power in range(14))
"""As the convention advises for ``gen_ai.client.token.usage``."""

COMPILE_BUCKETS: Final = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
"""Seconds. From an expression on a CPU to a large model."""

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
INFERENCE_AUDIO_DURATION: Final = Metric(
    "aimon.inference.audio.duration", "counter", "s",
    "Seconds of sound that requests worked off.", _MODEL,
)  # fmt: skip
INFERENCE_AUDIO_SPEED: Final = Metric(
    "aimon.inference.audio.speed", "histogram", "1",
    "Seconds of sound per second of work, the inverse real-time factor (RTFx); below 1 the model is slower than speech.",
    _MODEL, AUDIO_SPEED_BUCKETS,
)  # fmt: skip
INFERENCE_ENERGY: Final = Metric(
    "aimon.inference.energy", "observable_counter", "J",
    "Energy that devices used for inference requests; an estimate.", _MODEL,
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
CLIENT_TIME_TO_FIRST_CHUNK: Final = Metric(
    "gen_ai.client.operation.time_to_first_chunk", "histogram", "s",
    "Time to receive the first chunk of a streamed response.", _GEN_AI, TTFT_BUCKETS,
)  # fmt: skip
CLIENT_TOKEN_USAGE: Final = Metric(
    "gen_ai.client.token.usage", "histogram", "{token}",
    "Number of input and output tokens used, as the remote server reported them.",
    (*_GEN_AI, GEN_AI_TOKEN_TYPE), TOKEN_USAGE_BUCKETS,
)  # fmt: skip
COMPILE_DURATION: Final = Metric(
    AIMON_COMPILE_DURATION, "histogram", "s",
    "Time that a framework took to compile a function, or to load it from its cache of compiled ones; "
    "the model is that of the request that waited for it, if one did.",
    (AIMON_FRAMEWORK, AIMON_MODEL_NAME), COMPILE_BUCKETS,
)  # fmt: skip

# --- serving engines ---------------------------------------------------------------------------

_ENGINE = (AIMON_FRAMEWORK, AIMON_MODEL_NAME, AIMON_ENGINE_ID)

ENGINE_RUNNING: Final = Metric(
    "aimon.engine.requests.running", "observable_gauge", "{request}",
    "Requests in the engine's running batch.", _ENGINE,
)  # fmt: skip
ENGINE_WAITING: Final = Metric(
    "aimon.engine.requests.waiting", "observable_gauge", "{request}",
    "Requests that wait for a place in the engine's running batch.", _ENGINE,
)  # fmt: skip
ENGINE_KV_CACHE: Final = Metric(
    "aimon.engine.kv_cache.utilization", "observable_gauge", "1",
    "Share of the engine's key-value cache that running requests occupy.", _ENGINE,
)  # fmt: skip
ENGINE_PREFIX_QUERIES: Final = Metric(
    "aimon.engine.prefix_cache.queries", "observable_counter", "{token}",
    "Prompt tokens that the engine looked up in its prefix cache.", _ENGINE,
)  # fmt: skip
ENGINE_PREFIX_HITS: Final = Metric(
    "aimon.engine.prefix_cache.hits", "observable_counter", "{token}",
    "Prompt tokens that the engine found in its prefix cache.", _ENGINE,
)  # fmt: skip
ENGINE_PREEMPTIONS: Final = Metric(
    "aimon.engine.preemptions", "observable_counter", "{preemption}",
    "Times that the engine took a running request out of its batch for want of memory.", _ENGINE,
)  # fmt: skip
ENGINE_DRAFT_TOKENS: Final = Metric(
    "aimon.engine.speculative.draft_tokens", "observable_counter", "{token}",
    "Tokens proposed by speculative decoding.", _ENGINE,
)  # fmt: skip
ENGINE_ACCEPTED_TOKENS: Final = Metric(
    "aimon.engine.speculative.accepted_tokens", "observable_counter", "{token}",
    "Proposed tokens that the model accepted.", _ENGINE,
)  # fmt: skip

# --- the process -------------------------------------------------------------------------------

PROCESS_CPU_TIME: Final = Metric(
    "process.cpu.time", "observable_counter", "s",
    "Total CPU seconds broken down by different states.", (CPU_MODE,),
)  # fmt: skip
PROCESS_CPU_UTILIZATION: Final = Metric(
    "process.cpu.utilization", "observable_gauge", "1",
    "CPU time since the last sampling, divided by the elapsed time and the CPUs available to the process.",
    (CPU_MODE,),
)  # fmt: skip
PROCESS_MEMORY_USAGE: Final = Metric(
    "process.memory.usage", "observable_updowncounter", "By",
    "The amount of physical memory in use.",
)  # fmt: skip
PROCESS_MEMORY_VIRTUAL: Final = Metric(
    "process.memory.virtual", "observable_updowncounter", "By",
    "The amount of committed virtual memory.",
)  # fmt: skip
PROCESS_MEMORY_UNIQUE: Final = Metric(
    "aimon.process.memory.unique", "observable_updowncounter", "By",
    "Memory that would be freed if the process ended; only with the setting unique_memory.",
)  # fmt: skip
PROCESS_THREAD_COUNT: Final = Metric(
    "process.thread.count", "observable_updowncounter", "{thread}",
    "Process threads count.",
)  # fmt: skip
PROCESS_FILE_DESCRIPTOR_COUNT: Final = Metric(
    "process.unix.file_descriptor.count", "observable_updowncounter", "{file_descriptor}",
    "Number of unix file descriptors in use by the process.",
)  # fmt: skip
PROCESS_CONTEXT_SWITCHES: Final = Metric(
    "process.context_switches", "observable_counter", "{context_switch}",
    "Number of times the process has been context switched, all its threads together.",
    (CONTEXT_SWITCH_TYPE,),
)  # fmt: skip
PROCESS_PAGING_FAULTS: Final = Metric(
    "process.paging.faults", "observable_counter", "{fault}",
    "Number of page faults the process has made.", (PAGING_FAULT_TYPE,),
)  # fmt: skip
PROCESS_DISK_IO: Final = Metric(
    "process.disk.io", "observable_counter", "By",
    "Disk bytes transferred.", (DISK_IO_DIRECTION,),
)  # fmt: skip
PROCESS_EVENT_LOOP_LAG: Final = Metric(
    "aimon.process.event_loop.lag", "observable_gauge", "s",
    "Longest delay of the asyncio event loop since the last sampling; only with the setting event_loop_lag.",
)  # fmt: skip

# --- the container -----------------------------------------------------------------------------

CPU_UTILIZATION: Final = Metric(
    "aimon.cpu.utilization", "observable_gauge", "1",
    "CPU used / available: of the tightest quota or of the CPUs that the process may run on, "
    "whichever is fuller.",
)  # fmt: skip
CPU_LIMIT: Final = Metric(
    "aimon.cpu.limit", "observable_gauge", "{cpu}",
    "CPUs that the tightest quota allows; absent where there is no quota.",
)  # fmt: skip
CPU_THROTTLED: Final = Metric(
    "aimon.cpu.throttled", "observable_counter", "s",
    "Time for which the container's threads waited for the next period of their quota.",
)  # fmt: skip
CPU_THROTTLED_RATIO: Final = Metric(
    "aimon.cpu.throttled.ratio", "observable_gauge", "1",
    "Share of the quota's periods since the last sampling in which the container was throttled.",
)  # fmt: skip
MEMORY_UTILIZATION: Final = Metric(
    "aimon.memory.utilization", "observable_gauge", "1",
    "Memory used / available: of the tightest limit or of the host, whichever is fuller.",
)  # fmt: skip
MEMORY_LIMIT: Final = Metric(
    "aimon.memory.limit", "observable_updowncounter", "By",
    "Memory that the tightest limit allows; absent where there is no limit.",
)  # fmt: skip
MEMORY_OOM_KILLS: Final = Metric(
    "aimon.memory.oom_kills", "observable_counter", "{process}",
    "Processes of the container that the kernel killed because memory ran out.",
)  # fmt: skip
PRESSURE: Final = Metric(
    "aimon.pressure", "observable_gauge", "1",
    "Share of the last ten seconds in which some or all work waited for a resource (PSI).",
    (AIMON_RESOURCE, AIMON_PRESSURE_KIND),
)  # fmt: skip
CONTAINER_CPU_TIME: Final = Metric(
    "container.cpu.time", "observable_counter", "s",
    "Total CPU time consumed.",
)  # fmt: skip
CONTAINER_MEMORY_USAGE: Final = Metric(
    "container.memory.usage", "observable_updowncounter", "By",
    "Memory usage of the container.",
)  # fmt: skip
CONTAINER_MEMORY_WORKING_SET: Final = Metric(
    "container.memory.working_set", "observable_updowncounter", "By",
    "Container memory working set.",
)  # fmt: skip

# --- the host ----------------------------------------------------------------------------------

SYSTEM_CPU_TIME: Final = Metric(
    "system.cpu.time", "observable_counter", "s",
    "Seconds each logical CPU spent on each mode, all CPUs together.", (CPU_MODE,),
)  # fmt: skip
SYSTEM_CPU_UTILIZATION: Final = Metric(
    "system.cpu.utilization", "observable_gauge", "1",
    "Share of all CPUs' time by mode since the last sampling.", (CPU_MODE,),
)  # fmt: skip
SYSTEM_CPU_LOGICAL_COUNT: Final = Metric(
    "system.cpu.logical.count", "observable_updowncounter", "{cpu}",
    "Reports the number of logical (virtual) processor cores created by the operating system to manage "
    "multitasking.",
)  # fmt: skip
SYSTEM_MEMORY_USAGE: Final = Metric(
    "system.memory.usage", "observable_updowncounter", "By",
    "Reports memory in use by state; used is what is not available to new work.", (MEMORY_STATE,),
)  # fmt: skip
SYSTEM_MEMORY_LIMIT: Final = Metric(
    "system.memory.limit", "observable_updowncounter", "By",
    "Total virtual memory available in the system.",
)  # fmt: skip
SYSTEM_PAGING_USAGE: Final = Metric(
    "system.paging.usage", "observable_updowncounter", "By",
    "Unix swap or windows pagefile usage.", (PAGING_STATE,),
)  # fmt: skip
SYSTEM_DISK_IO: Final = Metric(
    "system.disk.io", "observable_counter", "By",
    "Disk bytes transferred, all disks together.", (DISK_IO_DIRECTION,),
)  # fmt: skip
SYSTEM_NETWORK_IO: Final = Metric(
    "system.network.io", "observable_counter", "By",
    "The number of bytes transmitted and received, all interfaces but the loopback together.",
    (NETWORK_IO_DIRECTION,),
)  # fmt: skip

# --- accelerators ------------------------------------------------------------------------------

_GPU = (HW_ID, HW_NAME, HW_PARENT, HW_MODEL)
_HARDWARE = (HW_ID, HW_NAME, HW_PARENT, HW_TYPE)
_DEVICE = (HW_ID, HW_NAME, HW_PARENT)

GPU_UTILIZATION: Final = Metric(
    "hw.gpu.utilization", "observable_gauge", "1",
    "Fraction of time spent in a specific task since the last sampling.", (*_GPU, HW_GPU_TASK),
)  # fmt: skip
GPU_MEMORY_USAGE: Final = Metric(
    "hw.gpu.memory.usage", "observable_updowncounter", "By",
    "GPU memory used.", (*_GPU, HW_VENDOR),
)  # fmt: skip
GPU_MEMORY_LIMIT: Final = Metric(
    "hw.gpu.memory.limit", "observable_updowncounter", "By",
    "Size of the GPU memory.", (*_GPU, HW_VENDOR),
)  # fmt: skip
GPU_MEMORY_UTILIZATION: Final = Metric(
    "hw.gpu.memory.utilization", "observable_gauge", "1",
    "Fraction of GPU memory used.", (*_GPU, HW_VENDOR),
)  # fmt: skip
HW_ENERGY: Final = Metric(
    "hw.energy", "observable_counter", "J",
    "Energy consumed by the component.", _HARDWARE,
)  # fmt: skip
HW_POWER: Final = Metric(
    "hw.power", "observable_gauge", "W",
    "Instantaneous power consumed by the component.", _HARDWARE,
)  # fmt: skip
HW_TEMPERATURE: Final = Metric(
    "hw.temperature", "observable_gauge", "Cel",
    "Temperature in degrees Celsius.", (*_DEVICE, HW_SENSOR_LOCATION),
)  # fmt: skip
HW_ERRORS: Final = Metric(
    "hw.errors", "observable_counter", "{error}",
    "Number of errors encountered by the component.", (*_HARDWARE, ERROR_TYPE),
)  # fmt: skip
HW_STATUS: Final = Metric(
    "hw.status", "observable_updowncounter", "1",
    "Operational status: 1 (true) or 0 (false) for each of the possible states.", (*_HARDWARE, HW_STATE),
)  # fmt: skip
GPU_POWER_LIMIT: Final = Metric(
    "aimon.gpu.power.limit", "observable_gauge", "W",
    "Power that the GPU is allowed.", _DEVICE,
)  # fmt: skip
GPU_ACTIVITY: Final = Metric(
    "aimon.gpu.activity", "observable_gauge", "1",
    "Share of the time since the last sampling in which a unit of the GPU was active, from its profiling counters.",
    (*_DEVICE, AIMON_GPU_UNIT),
)  # fmt: skip
GPU_CLOCK: Final = Metric(
    "aimon.gpu.clock.frequency", "observable_gauge", "Hz",
    "Clock frequency of a domain of the GPU.", (*_DEVICE, AIMON_GPU_CLOCK),
)  # fmt: skip
GPU_CLOCK_LIMIT: Final = Metric(
    "aimon.gpu.clock.limit", "observable_gauge", "Hz",
    "Highest clock frequency of a domain of the GPU.", (*_DEVICE, AIMON_GPU_CLOCK),
)  # fmt: skip
GPU_THROTTLED: Final = Metric(
    "aimon.gpu.throttled", "observable_gauge", "1",
    "1 for each reason that holds the GPU's clocks down now; 0 with the reason none where nothing does.",
    (*_DEVICE, AIMON_GPU_THROTTLE_REASON),
)  # fmt: skip
GPU_PCIE_IO: Final = Metric(
    "aimon.gpu.pcie.throughput", "observable_gauge", "By/s",
    "Bytes per second between the GPU and its host.", (*_DEVICE, NETWORK_IO_DIRECTION),
)  # fmt: skip
GPU_LINK_IO: Final = Metric(
    "aimon.gpu.link.io", "observable_counter", "By",
    "Bytes between the GPU and other GPUs over the vendor's links.", (*_DEVICE, NETWORK_IO_DIRECTION),
)  # fmt: skip
GPU_PROCESSES: Final = Metric(
    "aimon.gpu.processes", "observable_gauge", "{process}",
    "Processes that use the GPU.", _DEVICE,
)  # fmt: skip
GPU_PROCESS_MEMORY: Final = Metric(
    "aimon.gpu.process.memory.usage", "observable_updowncounter", "By",
    "Memory of the GPU that this process and its children use.", _DEVICE,
)  # fmt: skip
GPU_PROCESS_UTILIZATION: Final = Metric(
    "aimon.gpu.process.utilization", "observable_gauge", "1",
    "Share of the time since the last sampling in which the GPU ran kernels of this process and its children.",
    _DEVICE,
)  # fmt: skip
FRAMEWORK_MEMORY: Final = Metric(
    "aimon.framework.memory.usage", "observable_updowncounter", "By",
    "Memory of a device that a framework's allocator holds: allocated to tensors, and reserved in all.",
    (AIMON_FRAMEWORK, AIMON_DEVICE, AIMON_MEMORY_KIND),
)  # fmt: skip

# --- alerts ------------------------------------------------------------------------------------

ALERT_ACTIVE: Final = Metric(
    "aimon.alert.active", "observable_gauge", "1",
    "1 while an alert fires, 0 for a while after.",
    (ALERT_RULE_NAME, ALERT_SEVERITY, AIMON_MODEL_NAME, HW_ID),
)  # fmt: skip
ALERT_TRANSITIONS: Final = Metric(
    "aimon.alert.transitions", "observable_counter", "{transition}",
    "How often alerts of a rule came into a state.", (ALERT_RULE_NAME, ALERT_SEVERITY, ALERT_STATE),
)  # fmt: skip
SLO_EVENTS: Final = Metric(
    "aimon.slo.events", "observable_counter", "{request}",
    "Requests that met an objective, or did not.", (SLO_NAME, SLO_OUTCOME, AIMON_MODEL_NAME),
)  # fmt: skip

# --- hints -------------------------------------------------------------------------------------

_MODEL_ALONE = (AIMON_MODEL_NAME,)

HINT_CONCURRENCY_LIMIT: Final = Metric(
    "aimon.hint.concurrency.limit", "observable_gauge", "{request}",
    "Requests in flight that the model can serve well in this process.", _MODEL_ALONE,
)  # fmt: skip
HINT_CONCURRENCY_UTILIZATION: Final = Metric(
    "aimon.hint.concurrency.utilization", "observable_gauge", "1",
    "Requests in flight and waiting, over the last seconds, divided by the hinted limit.", _MODEL_ALONE,
)  # fmt: skip
HINT_CONCURRENCY_CONFIDENCE: Final = Metric(
    "aimon.hint.confidence", "observable_gauge", "1",
    "How sure the concurrency hint is: 0.3 is a lower bound, 0.9 was seen at or near the limit.", _MODEL_ALONE,
)  # fmt: skip
HINT_KV_TOKENS_LIMIT: Final = Metric(
    "aimon.hint.concurrency.kv_tokens", "observable_gauge", "{token}",
    "The concurrency limit in tokens of the key-value cache.", _MODEL_ALONE,
)  # fmt: skip
HINT_REPLICAS_RATIO: Final = Metric(
    "aimon.hint.replicas.ratio", "observable_gauge", "1",
    "Replicas that the load of this one needs: 1 is as many as there are.", _MODEL_ALONE,
)  # fmt: skip
HINT_BATCH_SIZE: Final = Metric(
    "aimon.hint.batch.size", "observable_gauge", "{item}",
    "Items in a batch from which on more bring little.", _MODEL,
)  # fmt: skip
HINT_BOTTLENECK_CONFIDENCE: Final = Metric(
    "aimon.hint.resource", "observable_gauge", "1",
    "How sure it is that this resource binds now.", (HINT_BOTTLENECK,),
)  # fmt: skip
CONCURRENCY_IN_FLIGHT: Final = Metric(
    "aimon.concurrency.inflight", "observable_gauge", "{request}",
    "Requests in flight, as a mean over the last seconds.", _MODEL_ALONE,
)  # fmt: skip
MODEL_TPOT_INTERCEPT: Final = Metric(
    "aimon.model.tpot.intercept", "observable_gauge", "s",
    "Time per output token of a request that is alone, as fitted.", _MODEL_ALONE,
)  # fmt: skip
MODEL_TPOT_SLOPE: Final = Metric(
    "aimon.model.tpot.slope", "observable_gauge", "s",
    "What each further request in flight adds to the time per output token, as fitted.", _MODEL_ALONE,
)  # fmt: skip
MODEL_KV_TOKENS: Final = Metric(
    "aimon.model.kv.tokens_per_request", "observable_gauge", "{token}",
    "Tokens of the key-value cache that a request in flight holds, on average.", _MODEL_ALONE,
)  # fmt: skip
LIMITER_LIMIT: Final = Metric(
    "aimon.limiter.limit", "observable_gauge", "{request}",
    "Requests that the limiter of a model lets in at once.", (AIMON_MODEL_NAME, LIMITER_MODE),
)  # fmt: skip
LIMITER_ACTIVE: Final = Metric(
    "aimon.limiter.active", "observable_gauge", "{request}",
    "Requests that hold a slot of the limiter.", (AIMON_MODEL_NAME, LIMITER_MODE),
)  # fmt: skip
LIMITER_REQUESTS: Final = Metric(
    "aimon.limiter.requests", "observable_counter", "{request}",
    "Requests that the limiter admitted or shed; in a dry run, would have shed.",
    (AIMON_MODEL_NAME, LIMITER_MODE, LIMITER_OUTCOME),
)  # fmt: skip

ALERT_METRICS: Final = (ALERT_ACTIVE, ALERT_TRANSITIONS, SLO_EVENTS)
HINT_METRICS: Final = (
    HINT_CONCURRENCY_LIMIT, HINT_CONCURRENCY_UTILIZATION, HINT_CONCURRENCY_CONFIDENCE, HINT_KV_TOKENS_LIMIT,
    HINT_REPLICAS_RATIO, HINT_BATCH_SIZE, HINT_BOTTLENECK_CONFIDENCE, CONCURRENCY_IN_FLIGHT,
    MODEL_TPOT_INTERCEPT, MODEL_TPOT_SLOPE, MODEL_KV_TOKENS,
)  # fmt: skip
LIMITER_METRICS: Final = (LIMITER_LIMIT, LIMITER_ACTIVE, LIMITER_REQUESTS)

# --- ourselves ---------------------------------------------------------------------------------

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

SELFMON_SAMPLER_CPU_TIME: Final = Metric(
    "aimon.selfmon.sampler.cpu.time", "observable_counter", "s",
    "CPU time that the sampling of resources has used.",
)  # fmt: skip
SELFMON_SAMPLING_DURATION: Final = Metric(
    "aimon.selfmon.sampling.duration", "observable_gauge", "s",
    "Time that the last sampling took, waiting for drivers included.",
)  # fmt: skip
SELFMON_SOURCE_AVAILABLE: Final = Metric(
    "aimon.selfmon.source.available", "observable_gauge", "1",
    "1 when a source of resource readings had values in the last sampling, 0 when it had none.",
    (AIMON_SOURCE,),
)  # fmt: skip

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics, for docs and for the test that every documented name is emitted."""

QUANTILES: Final = (0.5, 0.95, 0.99)
