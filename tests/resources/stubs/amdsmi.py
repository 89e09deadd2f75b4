"""A ``libamd_smi.so`` for the real ``amdsmi`` 7.0.2: its answers come from a file, re-read at every call.

The file has lines ``WHAT VALUE``; the last that fits wins:

- ``devices 8``: GPUs that ``amdsmi_init`` finds; 1 without this line.
- ``amdsmi_init.status 34``: the status that a function gives; 0 is success.
- ``amdsmi_get_gpu_activity.0.gfx 77``: a value of a function for GPU 0; ``*`` is any GPU.
- ``amdsmi_get_gpu_activity.*.status 10``, ``amdsmi_get_gpu_activity.1.hang 30``: status and seconds of a call.
- ``device.1.removed 31``: GPU 1 is pulled out: each call has this status, and the next start does not find it.

Without the file there is no driver. Functions that are not written out below exist, as the wrapper binds them all, and are not supported.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

VERSION = "7.0.2"
ANSWERS_VARIABLE = "AIMON_STUB_AMDSMI"

METRICS_LAYOUT = {
    "METRICS_SIZE": 4544,
    "THROTTLE_STATUS": 68,
    "INDEP_THROTTLE_STATUS": 112,
    "PROCHOT": 432,
    "PPT": 440,
    "SOCKET_THM": 448,
    "VR_THM": 456,
    "HBM_THM": 464,
}
"""Size of ``amdsmi_gpu_metrics_t`` and where in it the fields are that are used."""

LOOKUP = r"""
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The last line of the file that fits. */
static int lookup(const char *what, long double *value) {
    const char *path = getenv(ANSWERS);
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[256], text[64];
    int found = 0;
    while (file && fscanf(file, "%255s %63s", name, text) == 2)
        if (!strcmp(name, what)) { *value = strtold(text, NULL); found = 1; }
    if (file) fclose(file);
    return found;
}

static long double setting(const char *function, int device, const char *field, long double otherwise) {
    char name[256];
    long double value = otherwise;
    snprintf(name, sizeof name, "%s.*.%s", function, field);
    lookup(name, &value);
    snprintf(name, sizeof name, "%s.%d.%s", function, device, field);
    lookup(name, &value);
    return value;
}

static long double plain(const char *what, long double otherwise) {
    lookup(what, &otherwise);
    return otherwise;
}

static void pause_for(long double seconds) {
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9L)};
    if (seconds > 0) nanosleep(&pause, NULL);
}
"""
"""What a library needs to find its answers in the file that the variable ``ANSWERS`` names."""

_COMMON = r"""
enum { SUCCESS = 0, INVAL = 1, NOT_SUPPORTED = 2, NOT_INIT = 32, DRIVER_NOT_LOADED = 34 };
enum { MOST_DEVICES = 64, GENERATIONS = 16 };

/* A handle is the address of a byte: of this generation, or it is stale. */
static char handles[GENERATIONS][MOST_DEVICES];
static int generation = -1, initialised, listed[MOST_DEVICES], listed_count;

static int device_of(void *handle) {
    long device = (char *)handle - handles[generation % GENERATIONS];
    return device >= 0 && device < MOST_DEVICES ? (int)device : -1;
}

/* What a call for a device comes to before it does anything. */
static int outcome(const char *function, void *handle, int *device) {
    if (!initialised) return NOT_INIT;
    *device = device_of(handle);
    if (*device < 0) return INVAL;
    pause_for(setting(function, *device, "hang", 0));
    int removed = (int)setting("device", *device, "removed", 0);
    return removed ? removed : (int)(uint32_t)setting(function, *device, "status", 0);
}

#define BEGIN                                              \
    int device;                                            \
    int status = outcome(__func__, handle, &device);       \
    if (status) return status;
#define VALUE(field, otherwise) setting(__func__, device, field, otherwise)

int amdsmi_init(uint64_t flags) {
    int status = (int)(uint32_t)plain("amdsmi_init.status", getenv(ANSWERS) ? SUCCESS : DRIVER_NOT_LOADED);
    if (status || initialised) return status;
    initialised = 1;
    generation++;
    listed_count = 0;
    int devices = (int)plain("devices", 1);
    for (int device = 0; device < devices; device++)
        if (!setting("device", device, "removed", 0)) listed[listed_count++] = device;
    return SUCCESS;
}

int amdsmi_shut_down(void) {
    initialised = 0;
    return SUCCESS;
}

/* One socket for each GPU. */
int amdsmi_get_socket_handles(uint32_t *count, void **sockets) {
    if (!initialised) return NOT_INIT;
    int status = (int)(uint32_t)plain("amdsmi_get_socket_handles.status", 0);
    if (status) return status;
    for (int index = 0; sockets && index < listed_count; index++)
        sockets[index] = &handles[generation % GENERATIONS][listed[index]];
    *count = (uint32_t)listed_count;
    return SUCCESS;
}

int amdsmi_get_processor_handles(void *socket, uint32_t *count, void **processors) {
    if (!initialised) return NOT_INIT;
    if (processors) processors[0] = socket;
    *count = 1;
    return SUCCESS;
}

int amdsmi_status_code_to_string(int status, const char **text) {
    *text = "status of the stub";
    return SUCCESS;
}
"""

_FUNCTIONS = r"""
/* Partitions of one GPU have its UUID: give them one ``number``. */
int amdsmi_get_gpu_device_uuid(void *handle, uint32_t *length, char *uuid) {
    BEGIN
    snprintf(uuid, *length, "%02xff74a1-0000-1000-8000-000000000000", (int)VALUE("number", device));
    return SUCCESS;
}

int amdsmi_get_gpu_device_bdf(void *handle, uint64_t *bdf) {
    BEGIN
    *bdf = (uint64_t)(device + 3) << 8;
    return SUCCESS;
}

struct asic_info {
    char market_name[256];
    uint32_t vendor_id;
    char vendor_name[256];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[256];
    uint32_t oam_id, num_of_compute_units;
    uint64_t target_graphics_version;
    uint32_t subsystem_id, reserved[21];
};
static_assert(sizeof(struct asic_info) == 896, "as in amdsmi 7.0.2");

int amdsmi_get_gpu_asic_info(void *handle, struct asic_info *info) {
    BEGIN
    memset(info, 0, sizeof *info);
    strcpy(info->market_name, "AMD Instinct MI300X");
    strcpy(info->vendor_name, "Advanced Micro Devices Inc. [AMD/ATI]");
    strcpy(info->asic_serial, "75ff74a1");
    info->vendor_id = 0x1002;
    info->device_id = 0x74a1;
    return SUCCESS;
}

struct enumeration_info { uint32_t drm_render, drm_card, hsa_id, hip_id; char hip_uuid[256]; };
static_assert(sizeof(struct enumeration_info) == 272, "as in amdsmi 7.0.2");

int amdsmi_get_gpu_enumeration_info(void *handle, struct enumeration_info *info) {
    BEGIN
    memset(info, 0, sizeof *info);
    info->hip_id = (uint32_t)VALUE("hip_id", device);
    snprintf(info->hip_uuid, sizeof info->hip_uuid, "GPU-%016x", device);
    return SUCCESS;
}

struct engine_usage { uint32_t gfx, umc, mm, reserved[13]; };
static_assert(sizeof(struct engine_usage) == 64, "as in amdsmi 7.0.2");

int amdsmi_get_gpu_activity(void *handle, struct engine_usage *usage) {
    BEGIN
    usage->gfx = (uint32_t)VALUE("gfx", 77);
    usage->umc = (uint32_t)VALUE("umc", 11);
    usage->mm = (uint32_t)VALUE("mm", 5);
    return SUCCESS;
}

int amdsmi_get_gpu_memory_total(void *handle, int type, uint64_t *bytes) {
    BEGIN
    *bytes = (uint64_t)VALUE("bytes", 206141652992.0L);
    return type ? NOT_SUPPORTED : SUCCESS;
}

int amdsmi_get_gpu_memory_usage(void *handle, int type, uint64_t *bytes) {
    BEGIN
    *bytes = (uint64_t)VALUE("bytes", 9663676416.0L);
    return type ? NOT_SUPPORTED : SUCCESS;
}

struct power_info {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage;
    uint32_t power_limit;
    uint64_t reserved[18];
};
static_assert(sizeof(struct power_info) == 192, "as in amdsmi 7.0.2");

int amdsmi_get_power_info(void *handle, struct power_info *info) {
    BEGIN
    memset(info, 0, sizeof *info);
    info->current_socket_power = (uint32_t)VALUE("current", 431);
    info->average_socket_power = (uint32_t)VALUE("average", 0xFFFF);
    return SUCCESS;
}

struct power_cap_info { uint64_t power_cap, default_power_cap, dpm_cap, min_power_cap, max_power_cap, reserved[3]; };
static_assert(sizeof(struct power_cap_info) == 64, "as in amdsmi 7.0.2");

int amdsmi_get_power_cap_info(void *handle, uint32_t sensor, struct power_cap_info *info) {
    BEGIN
    memset(info, 0, sizeof *info);
    info->power_cap = (uint64_t)VALUE("microwatts", 750000000.0L);
    return SUCCESS;
}

int amdsmi_get_energy_count(void *handle, uint64_t *count, float *microjoules, uint64_t *timestamp) {
    BEGIN
    *count = (uint64_t)VALUE("count", 2000000);
    *microjoules = (float)VALUE("microjoules", 15.25);
    *timestamp = 1;
    return SUCCESS;
}

/* Sensors: 0 edge, 1 hotspot, 2 memory. */
int amdsmi_get_temp_metric(void *handle, uint32_t sensor, int metric, int64_t *celsius) {
    static const char *const names[] = {"edge", "hotspot", "vram"};
    BEGIN
    if (sensor > 2 || metric) return NOT_SUPPORTED;
    char field[32];
    snprintf(field, sizeof field, "%s_status", names[sensor]);
    *celsius = (int64_t)VALUE(names[sensor], 51 + 10 * (int)sensor);
    return (int)VALUE(field, 0);
}

struct error_count { uint64_t correctable, uncorrectable, deferred, reserved[5]; };
static_assert(sizeof(struct error_count) == 64, "as in amdsmi 7.0.2");

int amdsmi_get_gpu_total_ecc_count(void *handle, struct error_count *count) {
    BEGIN
    memset(count, 0, sizeof *count);
    count->correctable = (uint64_t)VALUE("correctable", 3);
    count->uncorrectable = (uint64_t)VALUE("uncorrectable", 0);
    count->deferred = (uint64_t)VALUE("deferred", 1);
    return SUCCESS;
}

struct clock_info { uint32_t clk, min_clk, max_clk; uint8_t clk_locked, clk_deep_sleep; uint32_t reserved[4]; };
static_assert(sizeof(struct clock_info) == 32, "as in amdsmi 7.0.2");

/* Clocks: 0 graphics, 4 memory. */
int amdsmi_get_clock_info(void *handle, int clock, struct clock_info *info) {
    BEGIN
    memset(info, 0, sizeof *info);
    info->clk = (uint32_t)VALUE(clock ? "mem" : "gfx", clock ? 900 : 1900);
    info->max_clk = (uint32_t)VALUE(clock ? "mem_max" : "gfx_max", clock ? 1300 : 2100);
    return clock == 0 || clock == 4 ? SUCCESS : NOT_SUPPORTED;
}

/* What the GPU does not have is all ones. */
static void put(char *metrics, int offset, int size, long double value) {
    uint64_t bits = value < 0 ? UINT64_MAX : (uint64_t)value;
    memcpy(metrics + offset, &bits, (size_t)size);
}

int amdsmi_get_gpu_metrics_info(void *handle, char *metrics) {
    BEGIN
    memset(metrics, 0xFF, METRICS_SIZE);
    put(metrics, THROTTLE_STATUS, 4, VALUE("throttle_status", -1));
    put(metrics, INDEP_THROTTLE_STATUS, 8, VALUE("indep_throttle_status", -1));
    put(metrics, PROCHOT, 8, VALUE("prochot", -1));
    put(metrics, PPT, 8, VALUE("ppt", -1));
    put(metrics, SOCKET_THM, 8, VALUE("socket_thm", -1));
    put(metrics, VR_THM, 8, VALUE("vr_thm", -1));
    put(metrics, HBM_THM, 8, VALUE("hbm_thm", -1));
    return SUCCESS;
}

struct process_info {
    char name[256];
    uint32_t pid;
    uint64_t mem;
    struct { uint64_t gfx, enc; uint32_t reserved[12]; } engine_usage;
    struct { uint64_t gtt_mem, cpu_mem, vram_mem; uint32_t reserved[10]; } memory_usage;
    char container_name[256];
    uint32_t cu_occupancy, reserved[11];
};
static_assert(sizeof(struct process_info) == 704, "as in amdsmi 7.0.2");

/* ``pid0``, ``vram0``, ``pid1``, ... of ``count`` processes. */
int amdsmi_get_gpu_process_list(void *handle, uint32_t *count, struct process_info *processes) {
    BEGIN
    *count = (uint32_t)VALUE("count", 0);
    for (uint32_t index = 0; index < *count; index++) {
        char field[32];
        memset(&processes[index], 0, sizeof processes[index]);
        snprintf(field, sizeof field, "pid%u", index);
        processes[index].pid = (uint32_t)VALUE(field, 0);
        snprintf(field, sizeof field, "vram%u", index);
        processes[index].memory_usage.vram_mem = (uint64_t)VALUE(field, 0);
        processes[index].mem = 12345;
    }
    return SUCCESS;
}
"""


def available() -> bool:
    """Whether ``amdsmi`` and a C compiler are installed."""
    return find_spec("amdsmi") is not None and shutil.which("cc") is not None


def build(rocm: Path, *, without: str | None = None) -> Path:
    """Compile the library under ``rocm``, which is then what ``ROCM_PATH`` names.

    Args:
        rocm: An empty folder.
        without: A symbol that it lacks, as that of an old driver does.
    """
    spec = find_spec("amdsmi")
    assert spec is not None and spec.origin is not None
    wrapper = Path(spec.origin).with_name("amdsmi_wrapper.py").read_text()
    written = LOOKUP + _COMMON + _FUNCTIONS
    bound = sorted(set(re.findall(r"_libraries\['libamd_smi.so'\]\.(\w+)", wrapper)))
    others = [symbol for symbol in bound if not re.search(rf"\bint {symbol}\(", written)]
    lines = [f'#define ANSWERS "{ANSWERS_VARIABLE}"']
    lines += [f"#define {name} {value}" for name, value in METRICS_LAYOUT.items()]
    lines += [written, *(f"int {symbol}(void) {{ return NOT_SUPPORTED; }}" for symbol in others)]
    source = rocm / "amd_smi.c"
    text = "\n".join(lines) + "\n"
    source.write_text(re.sub(rf"\b{without}\(", "left_out(", text) if without else text)
    (rocm / "lib").mkdir()
    compile_library(source, rocm / "lib" / "libamd_smi.so")
    return rocm


def compile_library(source: Path, library: Path) -> None:
    """Compile a C file."""
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)


def answer(path: Path, answers: Mapping[str, float]) -> None:
    """Write the file of answers anew."""
    text = "".join(f"{what} {value}\n" for what, value in answers.items())
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
