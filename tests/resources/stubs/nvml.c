/* A libnvidia-ml.so.1 for tests: no GPU, but all answers that a test wants.

   The answers are in the file $NVML_STUB_FILE, which is read again when it has changed. Its lines are
   "DEVICE KEY VALUE"; DEVICE is the number of a GPU, "0/2" for the MIG instance at place 2 of GPU 0, or "*"
   for all and for what is of no device. The line of a device wins over that of all.

     * count 8                                 eight GPUs
     0 power.mw 431000                         a value: see the functions below for keys and defaults
     0 err.nvmlDeviceGetPowerUsage 3           the function returns this nvmlReturn_t
     0 err.all 15                              all functions of the device do
     0 field.err.82 3                          the field value has this nvmlReturn_t
     * hang.nvmlDeviceGetPowerUsage 30         the function takes 30 s, or until this line is gone
     0 samples.1 1000:40,2000:60               timestamp:percent of the sampling type
     0 processes.compute 123:1048576,124:na    pid:bytes
     0 process.utilization 5000:123:40         timestamp:pid:percent
     0 events 3:79,4:48                        number:XID; each number happens once
     0 mig 1    0 mig.places 0,2               MIG is enabled, and has instances at these places
     0 gpm.5 12.5                              a GPM metric; "gpm 1" says that there are any

   Without the file there is no driver: nvmlInit says so. Of every function the calls are counted:
   stub_calls("nvmlDeviceGetName"), or stub_calls(NULL) for all. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

typedef int Return;
typedef void *Device;
typedef unsigned long long u64;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10 };

enum { MAX_GPUS = 16, MAX_PLACES = 8, MAX_LINES = 4096, MAX_FUNCTIONS = 128 };

/* ---- The file -------------------------------------------------------------------------------- */

typedef struct { char device[16], key[64], value[512]; } Line;

static Line lines[MAX_LINES];
static int line_count;
static struct stat read_as;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void refresh(void) {
    const char *path = getenv("NVML_STUB_FILE");
    struct stat now;
    if (!path || stat(path, &now)) { line_count = 0; memset(&read_as, 0, sizeof read_as); return; }
    if (now.st_ino == read_as.st_ino && now.st_size == read_as.st_size &&
        now.st_mtim.tv_sec == read_as.st_mtim.tv_sec && now.st_mtim.tv_nsec == read_as.st_mtim.tv_nsec) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    read_as = now;
    line_count = 0;
    char text[640];
    while (line_count < MAX_LINES && fgets(text, sizeof text, file)) {
        Line *line = &lines[line_count];
        if (sscanf(text, "%15s %63s %511[^\n]", line->device, line->key, line->value) == 3) line_count++;
    }
    fclose(file);
}

/* Devices are pointers into this array: GPU g is [g][0], its instance at place p is [g][p + 1]. */
static char devices[MAX_GPUS][MAX_PLACES + 1];

static int gpu_of(Device device) { return (int)(((char *)device - devices[0]) / (MAX_PLACES + 1)); }
static int place_of(Device device) { return (int)(((char *)device - devices[0]) % (MAX_PLACES + 1)) - 1; }
static int is_ours(Device device) {
    return (char *)device >= devices[0] && (char *)device < devices[0] + sizeof devices;
}

static void name_of(Device device, char *name, size_t size) {
    if (!device) snprintf(name, size, "*");
    else if (place_of(device) < 0) snprintf(name, size, "%d", gpu_of(device));
    else snprintf(name, size, "%d/%d", gpu_of(device), place_of(device));
}

/* The value, or NULL. The last line that fits wins. */
static const char *text_of(Device device, const char *key) {
    char name[16];
    const char *of_all = NULL, *of_device = NULL;
    name_of(device, name, sizeof name);
    for (int i = 0; i < line_count; i++) {
        if (strcmp(lines[i].key, key)) continue;
        if (!strcmp(lines[i].device, name)) of_device = lines[i].value;
        else if (!strcmp(lines[i].device, "*")) of_all = lines[i].value;
    }
    return of_device ? of_device : of_all;
}

static u64 number_of(Device device, const char *key, u64 otherwise) {
    const char *text = text_of(device, key);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static double real_of(Device device, const char *key, double otherwise) {
    const char *text = text_of(device, key);
    return text ? strtod(text, NULL) : otherwise;
}

/* ---- What every function does ---------------------------------------------------------------- */

static struct { const char *function; unsigned long calls; } counted[MAX_FUNCTIONS];
static int initialised;

unsigned long stub_calls(const char *function) {
    unsigned long sum = 0;
    for (int i = 0; i < MAX_FUNCTIONS && counted[i].function; i++)
        if (!function || !strcmp(counted[i].function, function)) sum += counted[i].calls;
    return sum;
}

int stub_initialised(void) { return initialised; }

static void count(const char *function) {
    for (int i = 0; i < MAX_FUNCTIONS; i++) {
        if (!counted[i].function) counted[i].function = function;
        if (!strcmp(counted[i].function, function)) { counted[i].calls++; return; }
    }
}

static int gpu_count(void) { return (int)number_of(NULL, "count", 1); }

/* Counts the call, lets it take its time, and gives the error that it shall have. */
static Return enter(const char *function, Device device) {
    char key[96];
    pthread_mutex_lock(&lock);
    refresh();
    count(function);
    snprintf(key, sizeof key, "hang.%s", function);
    double seconds = real_of(device, key, 0);
    for (struct timespec step = {0, 10000000}; seconds > 0; seconds -= 0.01) {
        pthread_mutex_unlock(&lock);
        nanosleep(&step, NULL);
        pthread_mutex_lock(&lock);
        refresh();
        if (!text_of(device, key)) break;
    }
    snprintf(key, sizeof key, "err.%s", function);
    Return error = (Return)number_of(device, key, SUCCESS);
    if (!error && !initialised && strncmp(function, "nvmlInit", 8)) error = UNINITIALIZED;
    if (!error && device && (!is_ours(device) || gpu_of(device) >= gpu_count())) error = INVALID_ARGUMENT;
    if (!error && device) error = (Return)number_of(device, "err.all", SUCCESS);
    pthread_mutex_unlock(&lock);
    return error;
}

#define ENTER(device)                                 \
    do {                                              \
        Return error_ = enter(__func__, (device));    \
        if (error_) return error_;                    \
    } while (0)

/* ---- The library ------------------------------------------------------------------------------ */

Return nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!getenv("NVML_STUB_FILE")) return DRIVER_NOT_LOADED;
    ENTER(NULL);
    initialised++;
    return SUCCESS;
}

Return nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

Return nvmlShutdown(void) {
    ENTER(NULL);
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(Return error) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", error);
    return text;
}

Return nvmlSystemGetDriverVersion(char *version, unsigned size) {
    ENTER(NULL);
    snprintf(version, size, "580.00.00");
    return SUCCESS;
}

/* ---- Which devices there are ------------------------------------------------------------------ */

Return nvmlDeviceGetCount_v2(unsigned *found) {
    ENTER(NULL);
    *found = (unsigned)gpu_count();
    return SUCCESS;
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *found) {
    if (index >= MAX_GPUS) return INVALID_ARGUMENT;
    ENTER(&devices[index][0]);
    *found = &devices[index][0];
    return SUCCESS;
}

Return nvmlDeviceGetUUID(Device device, char *uuid, unsigned size) {
    ENTER(device);
    const char *text = text_of(device, "uuid");
    int place = place_of(device);
    if (text && (place < 0) == !strncmp(text, "GPU-", 4)) snprintf(uuid, size, "%s", text);
    else if (place < 0) snprintf(uuid, size, "GPU-00000000-0000-0000-0000-%012d", gpu_of(device));
    else snprintf(uuid, size, "MIG-00000000-0000-0000-%04d-%012d", gpu_of(device), place);
    return SUCCESS;
}

Return nvmlDeviceGetName(Device device, char *name, unsigned size) {
    ENTER(device);
    const char *text = text_of(device, "name");
    if (text) snprintf(name, size, "%s", text);
    else snprintf(name, size, place_of(device) < 0 ? "NVIDIA H100" : "NVIDIA H100 MIG 1g.10gb");
    return SUCCESS;
}

Return nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    ENTER(device);
    *current = *pending = (unsigned)number_of(device, "mig", 0);
    return SUCCESS;
}

Return nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *most) {
    ENTER(device);
    *most = (unsigned)number_of(device, "mig.most", 7);
    return SUCCESS;
}

Return nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned place, Device *found) {
    ENTER(device);
    if (place >= MAX_PLACES) return INVALID_ARGUMENT;
    const char *places = text_of(device, "mig.places");
    for (; places; places = strchr(places, ',') ? strchr(places, ',') + 1 : NULL)
        if ((unsigned)atoi(places) == place) { *found = &devices[gpu_of(device)][place + 1]; return SUCCESS; }
    return NOT_FOUND;
}

Return nvmlDeviceGetGpuInstanceId(Device device, unsigned *instance) {
    ENTER(device);
    *instance = (unsigned)place_of(device) + 7;
    return SUCCESS;
}

/* ---- Values ------------------------------------------------------------------------------------ */

typedef struct { u64 total, free, used; } Memory;

Return nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    ENTER(device);
    memory->total = number_of(device, "memory.total", place_of(device) < 0 ? 80ULL << 30 : 10ULL << 30);
    memory->used = number_of(device, "memory.used", 5ULL << 30) + number_of(device, "memory.reserved", 1ULL << 29);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;

Return nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *memory) {
    ENTER(device);
    if (memory->version != 0x02000028) return 25;
    memory->total = number_of(device, "memory.total", place_of(device) < 0 ? 80ULL << 30 : 10ULL << 30);
    memory->reserved = number_of(device, "memory.reserved", 1ULL << 29);
    memory->used = number_of(device, "memory.used", 5ULL << 30);
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

#define UNSIGNED(function, key, otherwise)                       \
    Return function(Device device, unsigned *value) {            \
        ENTER(device);                                           \
        *value = (unsigned)number_of(device, key, otherwise);    \
        return SUCCESS;                                          \
    }

#define UNSIGNED_64(function, key, otherwise)                    \
    Return function(Device device, u64 *value) {                 \
        ENTER(device);                                           \
        *value = number_of(device, key, otherwise);              \
        return SUCCESS;                                          \
    }

UNSIGNED(nvmlDeviceGetPowerUsage, "power.mw", 250000)
UNSIGNED(nvmlDeviceGetEnforcedPowerLimit, "power.limit.mw", 700000)
UNSIGNED_64(nvmlDeviceGetTotalEnergyConsumption, "energy.mj", 123456)
UNSIGNED_64(nvmlDeviceGetCurrentClocksEventReasons, "throttle", 0)
UNSIGNED_64(nvmlDeviceGetCurrentClocksThrottleReasons, "throttle", 0)

Return nvmlDeviceGetTemperature(Device device, int sensor, unsigned *celsius) {
    ENTER(device);
    if (sensor) return INVALID_ARGUMENT;
    *celsius = (unsigned)number_of(device, "temperature", 45);
    return SUCCESS;
}

typedef struct { unsigned version; int sensor, celsius; } Temperature;

Return nvmlDeviceGetTemperatureV(Device device, Temperature *temperature) {
    ENTER(device);
    temperature->celsius = (int)number_of(device, "temperature", 45);
    return SUCCESS;
}

static u64 clock_of(Device device, const char *what, int domain, u64 sm, u64 memory) {
    char key[32];
    snprintf(key, sizeof key, "%s.%s", what, domain == 2 ? "memory" : "sm");
    return number_of(device, key, domain == 2 ? memory : sm);
}

Return nvmlDeviceGetClockInfo(Device device, int domain, unsigned *megahertz) {
    ENTER(device);
    *megahertz = (unsigned)clock_of(device, "clock", domain, 1755, 2619);
    return SUCCESS;
}

Return nvmlDeviceGetMaxClockInfo(Device device, int domain, unsigned *megahertz) {
    ENTER(device);
    *megahertz = (unsigned)clock_of(device, "clock.limit", domain, 1980, 2619);
    return SUCCESS;
}

Return nvmlDeviceGetTotalEccErrors(Device device, int type, int counter, u64 *errors) {
    ENTER(device);
    if (counter != 1) return INVALID_ARGUMENT; /* the aggregate is what is asked for */
    *errors = number_of(device, type ? "ecc.uncorrected" : "ecc.corrected", 0);
    return SUCCESS;
}

typedef union { double real; unsigned u; unsigned long ul; u64 ull; long long sll; int i; unsigned short us; } Number;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    int type;
    Return error;
    Number value;
} FieldValue;

Return nvmlDeviceGetFieldValues(Device device, int wanted, FieldValue *values) {
    ENTER(device);
    for (int i = 0; i < wanted; i++) {
        char key[32];
        snprintf(key, sizeof key, "field.err.%u", values[i].field);
        values[i].error = (Return)number_of(device, key, SUCCESS);
        snprintf(key, sizeof key, "field.type.%u", values[i].field);
        /* The temperature is a 32 bit number, the counters have 64. */
        values[i].type = (int)number_of(device, key, values[i].field == 82 ? 1 : 3);
        snprintf(key, sizeof key, "field.%u", values[i].field);
        values[i].value.ull = number_of(device, key, values[i].field == 82 ? 60 : 0);
        if ((values[i].field == 138 || values[i].field == 139) && values[i].scope != 0xFFFFFFFF) values[i].value.ull = 1;
    }
    return SUCCESS;
}

/* ---- Utilisation -------------------------------------------------------------------------------- */

typedef struct { unsigned gpu, memory; } Rates;

Return nvmlDeviceGetUtilizationRates(Device device, Rates *rates) {
    ENTER(device);
    if (number_of(device, "mig", 0)) return NOT_SUPPORTED;
    rates->gpu = (unsigned)number_of(device, "utilization", 37);
    rates->memory = 12;
    return SUCCESS;
}

Return nvmlDeviceGetEncoderUtilization(Device device, unsigned *percent, unsigned *period) {
    ENTER(device);
    *percent = (unsigned)number_of(device, "encoder", 3);
    *period = 167000;
    return SUCCESS;
}

Return nvmlDeviceGetDecoderUtilization(Device device, unsigned *percent, unsigned *period) {
    ENTER(device);
    *percent = (unsigned)number_of(device, "decoder", 4);
    *period = 167000;
    return SUCCESS;
}

typedef struct { u64 timestamp; Number value; } Sample;

Return nvmlDeviceGetSamples(Device device, int type, u64 since, int *value_type, unsigned *room, Sample *samples) {
    ENTER(device);
    char key[32];
    snprintf(key, sizeof key, "samples.%d", type);
    const char *text = text_of(device, key);
    unsigned found = 0;
    *value_type = 1;
    if (!samples) { *room = text ? 100 : 0; return text ? SUCCESS : NOT_SUPPORTED; }
    for (; text; text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL) {
        u64 timestamp;
        unsigned percent;
        if (sscanf(text, "%llu:%u", &timestamp, &percent) != 2 || timestamp <= since || found >= *room) continue;
        samples[found].timestamp = timestamp;
        samples[found++].value.u = percent;
    }
    *room = found;
    return found ? SUCCESS : NOT_FOUND;
}

/* ---- Processes ---------------------------------------------------------------------------------- */

typedef struct { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; } Process;

static Return processes(Device device, const char *key, unsigned *room, Process *listed) {
    unsigned found = 0, fit = *room;
    const char *text = text_of(device, key);
    for (; text; text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL) {
        unsigned pid;
        u64 bytes = ~0ULL; /* not available */
        if (sscanf(text, "%u:%llu", &pid, &bytes) < 1) continue;
        if (listed && found < fit) listed[found] = (Process){pid, bytes, ~0u, ~0u};
        found++;
    }
    *room = found;
    return found > fit ? INSUFFICIENT_SIZE : SUCCESS;
}

#define PROCESSES(function, key)                                               \
    Return function(Device device, unsigned *room, Process *listed) {          \
        ENTER(device);                                                         \
        return processes(device, key, room, listed);                           \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "processes.compute")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "processes.graphics")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "processes.mps")

typedef struct { unsigned pid; u64 timestamp; unsigned sm, memory, encoder, decoder; } ProcessUtilization;

Return nvmlDeviceGetProcessUtilization(Device device, ProcessUtilization *samples, unsigned *room, u64 since) {
    ENTER(device);
    const char *text = text_of(device, "process.utilization");
    unsigned found = 0;
    for (; text; text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL) {
        u64 timestamp;
        unsigned pid, percent;
        if (sscanf(text, "%llu:%u:%u", &timestamp, &pid, &percent) != 3 || timestamp <= since) continue;
        if (samples && found < *room) samples[found] = (ProcessUtilization){pid, timestamp, percent, 0, 0, 0};
        found++;
    }
    if (!found) return number_of(device, "process.utilization.empty", NOT_FOUND);
    int fits = samples && found <= *room;
    *room = found;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}

/* ---- Events ------------------------------------------------------------------------------------- */

static struct { int used; u64 listens[MAX_GPUS]; int taken[MAX_GPUS]; } events;

int stub_event_sets(void) { return events.used; }

Return nvmlEventSetCreate(void **set) {
    ENTER(NULL);
    events.used++;
    *set = &events;
    return SUCCESS;
}

Return nvmlDeviceRegisterEvents(Device device, u64 types, void *set) {
    ENTER(device);
    (void)set;
    events.listens[gpu_of(device)] = types;
    return SUCCESS;
}

typedef struct { Device device; u64 type, data; unsigned gpu_instance, compute_instance; } Event;

Return nvmlEventSetWait_v2(void *set, Event *event, unsigned milliseconds) {
    (void)set;
    (void)milliseconds;
    ENTER(NULL);
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        Device device = &devices[gpu][0];
        const char *text = events.listens[gpu] & 8 ? text_of(device, "events") : NULL;
        for (; text; text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL) {
            int number, xid;
            if (sscanf(text, "%d:%d", &number, &xid) != 2 || number <= events.taken[gpu]) continue;
            events.taken[gpu] = number;
            *event = (Event){device, 8, (u64)xid, ~0u, ~0u};
            return SUCCESS;
        }
    }
    return TIMEOUT;
}

Return nvmlEventSetFree(void *set) {
    (void)set;
    ENTER(NULL);
    memset(events.listens, 0, sizeof events.listens);
    events.used--;
    return SUCCESS;
}

/* ---- GPM ----------------------------------------------------------------------------------------- */

typedef struct { unsigned version, supported; } GpmSupport;

Return nvmlGpmQueryDeviceSupport(Device device, GpmSupport *support) {
    ENTER(device);
    support->supported = (unsigned)number_of(device, "gpm", 1);
    return SUCCESS;
}

typedef struct { Device device; int instance, taken; } GpmSample;
static int gpm_samples;

int stub_gpm_samples(void) { return gpm_samples; }

Return nvmlGpmSampleAlloc(GpmSample **sample) {
    ENTER(NULL);
    *sample = calloc(1, sizeof **sample);
    gpm_samples++;
    return SUCCESS;
}

Return nvmlGpmSampleFree(GpmSample *sample) {
    ENTER(NULL);
    free(sample);
    gpm_samples--;
    return SUCCESS;
}

static int gpm_taken;

Return nvmlGpmSampleGet(Device device, GpmSample *sample) {
    ENTER(device);
    *sample = (GpmSample){device, -1, ++gpm_taken};
    return SUCCESS;
}

Return nvmlGpmMigSampleGet(Device device, unsigned instance, GpmSample *sample) {
    ENTER(device);
    *sample = (GpmSample){&devices[gpu_of(device)][instance - 7 + 1], (int)instance, ++gpm_taken};
    return SUCCESS;
}

typedef struct { unsigned id; Return error; double value; char *names[3]; } GpmMetric;
typedef struct { unsigned version, wanted; GpmSample *older, *newer; GpmMetric metrics[]; } GpmRequest;

Return nvmlGpmMetricsGet(GpmRequest *request) {
    ENTER(request->newer ? request->newer->device : NULL);
    if (!request->older || !request->newer || request->older->taken >= request->newer->taken) return INVALID_ARGUMENT;
    for (unsigned i = 0; i < request->wanted; i++) {
        char key[32];
        snprintf(key, sizeof key, "gpm.err.%u", request->metrics[i].id);
        request->metrics[i].error = (Return)number_of(request->newer->device, key, SUCCESS);
        snprintf(key, sizeof key, "gpm.%u", request->metrics[i].id);
        request->metrics[i].value = real_of(request->newer->device, key, request->metrics[i].id);
    }
    return SUCCESS;
}

/* As in a process that has just loaded the library. */
void stub_reset(void) {
    memset(counted, 0, sizeof counted);
    memset(&events, 0, sizeof events);
    initialised = gpm_samples = 0;
}
