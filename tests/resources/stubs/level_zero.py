"""A ``libze_loader.so.1`` for the real ``pyzes``: its answers come from a file, re-read at every call.

The file has lines as those of the library for ``amdsmi`` have:

- ``devices 2``: GPUs; 1 without this line. ``tiles 2``: tiles of each, which have the handles then.
- ``zesInit.status 2013265921``: what a function gives; 0 is success.
- ``zesMemoryGetState.1.free 77``: a value of a function for GPU 1; ``*`` is any GPU. So are ``status`` and ``hang``.
- ``device.1.lost 1``: each call for GPU 1 says that it is lost.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from tests.resources.stubs.amdsmi import LOOKUP, compile_library

ANSWERS_VARIABLE = "AIMON_STUB_LEVEL_ZERO"

_SOURCE = r"""
enum { SUCCESS = 0, LOST = 0x70000001, UNINITIALIZED = 0x78000001 };

/* A handle is the address of one of these: a GPU, or a part of it. */
struct part { int device, index; };
static struct part gpus[8], parts[8][8];
static int initialised;

static int outcome(const char *function, int device) {
    if (!initialised) return UNINITIALIZED;
    pause_for(setting(function, device, "hang", 0));
    if (setting("device", device, "lost", 0)) return LOST;
    return (int)(uint32_t)setting(function, device, "status", 0);
}

#define VALUE(field, otherwise) setting(__func__, handle->device, field, otherwise)
#define BEGIN                                            \
    int status = outcome(__func__, handle->device);      \
    if (status) return status;

static int tiles(void) { return (int)plain("tiles", 0); }
static int per_tile(int count) { return tiles() ? tiles() * count : count; }

int zesInit(uint32_t flags) {
    int status = (int)plain("zesInit.status", getenv(ANSWERS) ? SUCCESS : UNINITIALIZED);
    initialised = !status;
    return status;
}

int zesDriverGet(uint32_t *count, void **drivers) {
    if (!initialised) return UNINITIALIZED;
    *count = 1;
    if (drivers) drivers[0] = gpus;
    return (int)plain("zesDriverGet.status", 0);
}

int zesDeviceGet(void *driver, uint32_t *count, void **devices) {
    *count = (uint32_t)plain("devices", 1);
    for (uint32_t device = 0; devices && device < *count; device++) {
        gpus[device].device = (int)device;
        devices[device] = &gpus[device];
    }
    return SUCCESS;
}

struct device_properties {
    int32_t stype; void *next;
    struct {
        int32_t stype; void *next;
        int32_t type; uint32_t vendor, device, flags, subdevice, clock; uint64_t largest; uint32_t limits[7];
        uint64_t timer; uint32_t valid_bits, kernel_valid_bits; uint8_t uuid[16]; char name[256];
    } core;
    uint32_t subdevices;
    char serial[64], board[64], brand[64], model[64], vendor[64], driver[64];
};

int zesDeviceGetProperties(struct part *handle, struct device_properties *properties) {
    BEGIN
    if (properties->stype != 1) return UNINITIALIZED;
    properties->core.type = (int32_t)VALUE("type", 1);
    properties->core.uuid[0] = 0x86;
    properties->core.uuid[15] = (uint8_t)handle->device;
    strcpy(properties->core.name, "Intel(R) Graphics");
    strcpy(properties->model, VALUE("model", 1) ? "Intel(R) Data Center GPU Max 1550" : "");
    return SUCCESS;
}

static int list(const char *function, struct part *handle, int length, uint32_t *count, void **handles) {
    int status = outcome(function, handle->device);
    if (status) return status;
    *count = (uint32_t)setting(function, handle->device, "count", length);
    for (uint32_t index = 0; handles && index < *count; index++) {
        parts[handle->device][index] = (struct part){handle->device, (int)index};
        handles[index] = &parts[handle->device][index];
    }
    return SUCCESS;
}

#define LIST(name, length) \
    int name(struct part *handle, uint32_t *count, void **handles) { return list(__func__, handle, length, count, handles); }

/* Compute and copy engines; HBM and system memory; the card; graphics, memory and media; global, GPU and memory, voltage. */
LIST(zesDeviceEnumEngineGroups, per_tile(2))
LIST(zesDeviceEnumMemoryModules, 2)
LIST(zesDeviceEnumPowerDomains, 1)
LIST(zesDeviceEnumFrequencyDomains, tiles() ? tiles() : 3)
LIST(zesDeviceEnumTemperatureSensors, 4)

struct engine_properties { int32_t stype; void *next; uint32_t type; uint8_t on_tile; uint32_t tile; };

int zesEngineGetProperties(struct part *handle, struct engine_properties *properties) {
    BEGIN
    properties->type = handle->index % 2 ? 3 : 1;
    properties->on_tile = tiles() > 0;
    properties->tile = (uint32_t)handle->index / 2;
    return SUCCESS;
}

struct engine_stats { uint64_t active, timestamp; };

int zesEngineGetActivity(struct part *handle, struct engine_stats *stats) {
    static const char *const fields[] = {"active0", "active1", "active2", "active3"};
    BEGIN
    stats->active = (uint64_t)VALUE(fields[handle->index % 4], 0);
    stats->timestamp = (uint64_t)plain("microseconds", 0);
    return SUCCESS;
}

struct mem_properties {
    int32_t stype; void *next; int32_t type; uint8_t on_tile; uint32_t tile; int32_t location;
    uint64_t size; int32_t width, channels;
};

int zesMemoryGetProperties(struct part *handle, struct mem_properties *properties) {
    BEGIN
    properties->location = handle->index == 0;
    return SUCCESS;
}

struct mem_state { int32_t stype; void *next; int32_t health; uint64_t free, size; };

int zesMemoryGetState(struct part *handle, struct mem_state *state) {
    BEGIN
    state->size = (uint64_t)VALUE("size", 1000);
    state->free = (uint64_t)VALUE("free", 400);
    return SUCCESS;
}

struct power_properties { int32_t stype; void *next; uint8_t on_tile; uint32_t tile; uint8_t flags[2]; int32_t limits[3]; };

int zesPowerGetProperties(struct part *handle, struct power_properties *properties) {
    BEGIN
    properties->on_tile = (uint8_t)VALUE("on_tile", 0);
    return SUCCESS;
}

struct energy_counter { uint64_t energy, timestamp; };

int zesPowerGetEnergyCounter(struct part *handle, struct energy_counter *counter) {
    BEGIN
    counter->energy = (uint64_t)VALUE("microjoules", 5000000);
    counter->timestamp = (uint64_t)plain("microseconds", 0);
    return SUCCESS;
}

struct freq_properties {
    int32_t stype; void *next; int32_t type; uint8_t on_tile; uint32_t tile; uint8_t flags[2]; double min, max;
};

int zesFrequencyGetProperties(struct part *handle, struct freq_properties *properties) {
    BEGIN
    properties->type = tiles() ? 0 : handle->index;
    properties->max = handle->index == 1 ? -1 : 1600;
    return SUCCESS;
}

struct freq_state { int32_t stype; void *next; double voltage, request, tdp, efficient, actual; uint32_t throttled; };

int zesFrequencyGetState(struct part *handle, struct freq_state *state) {
    BEGIN
    state->actual = handle->index ? (double)VALUE("memory", 3200) : (double)VALUE("gpu", 1550);
    state->throttled = (uint32_t)VALUE("throttled", 0);
    return SUCCESS;
}

struct temp_properties { int32_t stype; void *next; int32_t type; uint8_t on_tile; uint32_t tile; double max; uint8_t flags[3]; };

int zesTemperatureGetProperties(struct part *handle, struct temp_properties *properties) {
    BEGIN
    properties->type = handle->index == 3 ? 8 : handle->index;
    return SUCCESS;
}

int zesTemperatureGetState(struct part *handle, double *celsius) {
    BEGIN
    *celsius = 50 + handle->index;
    return SUCCESS;
}
"""


def available() -> bool:
    """Whether ``pyzes`` and a C compiler are installed."""
    return find_spec("pyzes") is not None and shutil.which("cc") is not None


def build(folder: Path) -> Path:
    """Compile the library in ``folder``."""
    source = folder / "level_zero.c"
    source.write_text(f'#define ANSWERS "{ANSWERS_VARIABLE}"\n{LOOKUP}{_SOURCE}')
    library = folder / "libze_loader.so.1"
    compile_library(source, library)
    return library
