/* Libraries for TensorRT's real Python bindings to run over: engines that compute nothing, and take a millisecond for it.
 *
 * The bindings call the methods of C++ objects by their places in virtual tables. A place is that of a version of the
 * interface: PLACES_11 are those of TensorRT 11, the others those of TensorRT 10. Every other method returns zero.
 */
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef PLACES_11
enum { NAME = 7, MODE = 19, COUNT = 26, TENSOR = 27, EXECUTE = 15, SHAPE = 21, ENQUEUE = 36 };
#else
enum { NAME = 9, MODE = 23, COUNT = 30, TENSOR = 31, EXECUTE = 16, SHAPE = 22, ENQUEUE = 37 };
#endif
enum { DESERIALIZE = 3, MAKE_CONTEXT = 5, ENGINE = 7, METHODS = 200 };

typedef uint64_t (*method)(void *, void *, void *);
struct object { method *methods; struct object *implementation; };
struct dimensions { int32_t count; int64_t sizes[8]; };

/* Before the methods stand where the object begins, and its type, which is not told. */
static struct table { void *offset, *type; method methods[METHODS]; } runtime_table, engine_table, context_table;
static struct object runtime = {runtime_table.methods, &runtime}, engine = {engine_table.methods, &engine},
                     context = {context_table.methods, &context};

static uint64_t zero(void *self, void *first, void *second) { return 0; }
static uint64_t give_engine(void *self, void *first, void *second) { return (uint64_t)&engine; }
static uint64_t give_context(void *self, void *first, void *second) { return (uint64_t)&context; }
static uint64_t name(void *self, void *first, void *second) { return (uint64_t)"tiny"; }
static uint64_t count(void *self, void *first, void *second) { return 2; }
static uint64_t tensor(void *self, void *place, void *second) { return (uint64_t)(place ? "rows" : "scores"); }
static uint64_t mode(void *self, void *tensor, void *second) { return strcmp(tensor, "rows") ? 2 : 1; }
static uint64_t enqueue(void *self, void *stream, void *second) { return 1; }

static uint64_t shape(void *result, void *self, void *tensor) {
    struct dimensions *dimensions = result;
    memset(dimensions, 0, sizeof *dimensions);
    dimensions->count = 2;
    dimensions->sizes[0] = strcmp(tensor, "rows") ? 1 : 4;
    dimensions->sizes[1] = 8;
    return (uint64_t)result;
}

/* Fails where the first buffer is nowhere. */
static uint64_t execute(void *self, void *buffers, void *second) {
    struct timespec millisecond = {0, 1000000};
    nanosleep(&millisecond, 0);
    return *(void **)buffers != 0;
}

void *createInferRuntime_INTERNAL(void *logger, int version) {
    for (int place = 0; place < METHODS; ++place)
        runtime_table.methods[place] = engine_table.methods[place] = context_table.methods[place] = zero;
    runtime_table.methods[DESERIALIZE] = give_engine;
    engine_table.methods[MAKE_CONTEXT] = give_context;
    engine_table.methods[NAME] = name;
    engine_table.methods[COUNT] = count;
    engine_table.methods[TENSOR] = tensor;
    engine_table.methods[MODE] = mode;
    context_table.methods[ENGINE] = give_engine;
    context_table.methods[EXECUTE] = execute;
    context_table.methods[ENQUEUE] = enqueue;
    context_table.methods[SHAPE] = shape;
    return &runtime;
}

void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *names) { return 1; }
