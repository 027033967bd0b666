/* A driver and CUDA libraries that succeed, compute nothing, and count.
 *
 * build.py compiles this file into one library, which is there under each name
 * that TensorFlow opens. A function that is not here does nothing, and returns
 * 0; one that makes a handle returns some memory. The memory of a card is the
 * host's, so copies are real; what kernels would write is garbage.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver_types.h" /* of the CUDA wheels */
#include "vector_types.h"

enum { LAUNCHES, COPIES, TO_HOST, WAITS, PRODUCTS, RNNS, SUMS, GRAPHS, KINDS };
long null_counts[KINDS];
#define COUNT(kind) __sync_fetch_and_add(&null_counts[kind], 1)

static int setting(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}
static int num_cards(void) { return setting("NULL_CARDS", 1); }
static int capability(void) { return setting("NULL_CAPABILITY", 89); }
static const char *card_name(void) { return "a card that computes nothing"; }
static void *handle(void) { return calloc(1, 4096); }
static void *memory(size_t size) {
  size = (size + 4095) / 4096 * 4096;
  void *block = aligned_alloc(4096, size);
  return block ? memset(block, 0, size) : block;
}

/* Attributes have the same numbers in the driver and in the runtime. */
static int attribute(int number, int card) {
  switch (number) {
    case 1: case 2: case 3: return 1024; /* threads of a block, and its x, y */
    case 4: return 64;                   /* z */
    case 5: return 2147483647;           /* blocks of a grid: x */
    case 6: case 7: return 65535;        /* y, z */
    case 8: return 49152;                /* bytes of shared memory of a block */
    case 10: return 32;                  /* threads of a warp */
    case 12: case 82: return 65536;      /* registers of a block, of a core */
    case 13: return 2520000;             /* kHz */
    case 16: return 128;                 /* cores */
    case 20: case 34: case 35: case 50: case 115: return 0;
    case 33: return 1 + card;            /* PCI bus */
    case 36: return 10501000;            /* kHz of the memory */
    case 37: return 384;                 /* bits of the memory's bus */
    case 38: return 75497472;            /* bytes of the L2 cache */
    case 39: return 1536;                /* threads of a core */
    case 75: return capability() / 10;
    case 76: return capability() % 10;
    case 81: return 102400;              /* bytes of shared memory of a core */
    case 97: return 101376;              /* of a block that asks for more */
    case 106: return 24;                 /* blocks of a core */
    default: return 1;
  }
}

/* The driver. A context is a card's number. */
#define CONTEXT(card) ((void *)(intptr_t)(0x1000 + (card)))
#define CARD(context) ((int)((intptr_t)(context) - 0x1000))
static __thread void *context;
static struct { char *start; size_t size; int card; } blocks[1 << 14];
static int num_blocks;

int cuDriverGetVersion(int *version) {
  *version = setting("NULL_CUDA", 12090);
  return 0;
}
int cuDeviceGetCount(int *count) { *count = num_cards(); return 0; }
int cuDeviceGet(int *card, int index) { *card = index; return 0; }
int cuDeviceGetName(char *name, int size, int card) {
  snprintf(name, size, "%s", card_name());
  return 0;
}
int cuDeviceGetUuid_v2(char *uuid, int card) {
  memset(uuid, 7 + card, 16);
  return 0;
}
int cuDeviceGetUuid(char *uuid, int card) {
  return cuDeviceGetUuid_v2(uuid, card);
}
int cuDeviceTotalMem_v2(size_t *size, int card) {
  *size = 24ul << 30;
  return 0;
}
int cuDeviceComputeCapability(int *major, int *minor, int card) {
  *major = capability() / 10;
  *minor = capability() % 10;
  return 0;
}
int cuDeviceGetAttribute(int *value, int number, int card) {
  /* Only the driver has 40, work queues, and 41, one address space. */
  *value = number == 40 ? 2 : attribute(number, card);
  return 0;
}
int cuDeviceGetPCIBusId(char *name, int size, int card) {
  snprintf(name, size, "0000:%02x:00.0", 1 + card);
  return 0;
}
int cuDeviceGetByPCIBusId(int *card, const char *name) {
  *card = (int)strtol(name + 5, 0, 16) - 1;
  return 0;
}
int cuDeviceCanAccessPeer(int *can, int one, int other) { *can = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **made, int card) {
  *made = CONTEXT(card);
  return 0;
}
int cuDevicePrimaryCtxGetState(int card, unsigned *flags, int *active) {
  *flags = 0;
  *active = 1;
  return 0;
}
int cuCtxSetCurrent(void *given) { context = given; return 0; }
int cuCtxGetCurrent(void **current) { *current = context; return 0; }
int cuCtxGetDevice(int *card) {
  *card = context ? CARD(context) : 0;
  return 0;
}
int cuCtxGetDevice_v2(int *card, void *of) { *card = CARD(of); return 0; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return 0;
}
int cuCtxSynchronize(void) { COUNT(WAITS); return 0; }
int cuStreamSynchronize(void *stream) { COUNT(WAITS); return 0; }

int cuMemGetInfo_v2(size_t *left, size_t *size) {
  *left = 23ul << 30;
  *size = 24ul << 30;
  return 0;
}
int cuMemAlloc_v2(void **made, size_t size) {
  *made = memory(size);
  int i = __sync_fetch_and_add(&num_blocks, 1) & ((1 << 14) - 1);
  blocks[i].start = *made;
  blocks[i].size = size;
  blocks[i].card = context ? CARD(context) : 0;
  return *made ? 0 : 2;
}
int cuMemAllocManaged(void **made, size_t size, unsigned flags) {
  return cuMemAlloc_v2(made, size);
}
int cuMemFree_v2(void *block) { free(block); return 0; }
int cuMemHostAlloc(void **made, size_t size, unsigned flags) {
  *made = memory(size);
  return 0;
}
int cuMemAllocHost_v2(void **made, size_t size) {
  return cuMemHostAlloc(made, size, 0);
}
int cuMemFreeHost(void *block) { free(block); return 0; }
int cuMemGetAddressRange_v2(void **start, size_t *size, void *block) {
  if (start) *start = block;
  if (size) *size = 1 << 20;
  return 0;
}
int cuPointerGetAttribute(void *value, int number, char *block) {
  int card = 0;
  for (int i = 0; i < num_blocks && i < 1 << 14; i++)
    if (block >= blocks[i].start && block < blocks[i].start + blocks[i].size)
      card = blocks[i].card;
  switch (number) {
    case 1: *(void **)value = CONTEXT(card); break;
    case 2: *(unsigned *)value = 2; break; /* a card's memory */
    case 9: *(int *)value = card; break;
    default: *(unsigned *)value = 0;
  }
  return 0;
}

static int copy(void *to, const void *from, size_t size) {
  COUNT(COPIES);
  memcpy(to, from, size);
  return 0;
}
static int copy_to_host(char *to, const void *from, size_t size) {
  COUNT(TO_HOST);
  /* One byte tells whether a loop goes on: the garbage must end it. */
  if (size == 1) *to = 0;
  else memcpy(to, from, size);
  return 0;
}
#define COPY(function, how) \
  int function(void *to, const void *from, size_t size, void *stream) { \
    return how(to, from, size); \
  }
COPY(cuMemcpyHtoD_v2, copy)
COPY(cuMemcpyHtoDAsync_v2, copy)
COPY(cuMemcpyDtoD_v2, copy)
COPY(cuMemcpyDtoDAsync_v2, copy)
COPY(cuMemcpyAsync, copy)
COPY(cuMemcpyDtoH_v2, copy_to_host)
COPY(cuMemcpyDtoHAsync_v2, copy_to_host)
static int fill(unsigned *block, unsigned value, size_t size) {
  for (size_t i = 0; i < size; i++) block[i] = value;
  return 0;
}
int cuMemsetD8_v2(void *block, unsigned char value, size_t size) {
  memset(block, value, size);
  return 0;
}
int cuMemsetD8Async(void *block, unsigned char value, size_t size, void *on) {
  return cuMemsetD8_v2(block, value, size);
}
int cuMemsetD32_v2(void *block, unsigned value, size_t size) {
  return fill(block, value, size);
}
int cuMemsetD32Async(void *block, unsigned value, size_t size, void *on) {
  return fill(block, value, size);
}

int cuStreamAddCallback(
    void *stream, void (*call)(void *, int, void *), void *data, unsigned f) {
  call(stream, 0, data);
  return 0;
}
int cuLaunchHostFunc(void *stream, void (*call)(void *), void *data) {
  call(data);
  return 0;
}
int cuStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cuStreamGetCaptureInfo_v2(void *stream, int *status) {
  *status = 0;
  return 0;
}
int cuEventElapsedTime(float *milliseconds, void *one, void *other) {
  *milliseconds = 0.01f;
  return 0;
}

int cuModuleLoadData(void **made) { *made = handle(); return 0; }
int cuModuleLoadDataEx(void **made) { return cuModuleLoadData(made); }
int cuModuleLoadFatBinary(void **made) { return cuModuleLoadData(made); }
int cuModuleGetFunction(void **made) { return cuModuleLoadData(made); }
int cuModuleGetGlobal_v2(void **block, size_t *size) {
  if (block) *block = memory(1 << 20);
  if (size) *size = 1 << 16;
  return 0;
}
int cuFuncGetAttribute(int *value, int number, void *function) {
  *value = number ? 0 : 1024; /* threads of a block */
  return 0;
}
int cuLaunchKernel(void) { COUNT(LAUNCHES); return 0; }
int cuLaunchKernelEx(void) { COUNT(LAUNCHES); return 0; }
int cuGraphLaunch(void) { COUNT(GRAPHS); return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *number) {
  *number = 2;
  return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *number) {
  *number = 2;
  return 0;
}
int cuOccupancyMaxPotentialBlockSize(int *grid, int *block) {
  *grid = 256;
  *block = 512;
  return 0;
}
int cuGraphAddKernelNode_v2(void **node) { *node = handle(); return 0; }
int cuStreamEndCapture(void *stream, void **graph) {
  *graph = handle();
  return 0;
}
int cuGraphGetNodes(void *graph, void **nodes, size_t *number) {
  *number = 1;
  if (nodes) nodes[0] = handle();
  return 0;
}
int cuGraphGetRootNodes(void *graph, void **nodes, size_t *number) {
  return cuGraphGetNodes(graph, nodes, number);
}
int cuGraphNodeGetType(void *node, int *type) { *type = 0; return 0; }
int cuGetErrorName(int error, const char **name) { *name = "NULL"; return 0; }
int cuGetErrorString(int error, const char **text) {
  *text = "the null card";
  return 0;
}
int cuGetProcAddress_v2(const char *name, void **function) {
  *function = 0;
  return 500; /* not found */
}

/* The management library. */
int nvmlSystemGetDriverVersion(char *version, unsigned size) {
  snprintf(version, size, "570.00");
  return 0;
}
int nvmlSystemGetCudaDriverVersion(int *version) {
  return cuDriverGetVersion(version);
}
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = num_cards();
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **made) {
  *made = handle();
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **made) {
  *made = handle();
  return 0;
}
const char *nvmlErrorString(int error) { return "the null card"; }
#define LINK(function, answer) \
  int function(void *card, unsigned *value) { *value = answer; return 0; }
LINK(nvmlDeviceGetMaxPcieLinkGeneration, 4)
LINK(nvmlDeviceGetMaxPcieLinkWidth, 16)
LINK(nvmlDeviceGetCurrPcieLinkGeneration, 4)
LINK(nvmlDeviceGetCurrPcieLinkWidth, 16)
LINK(nvmlDeviceGetGpuMaxPcieLinkGeneration, 4)

/* The runtime. */
static __thread int current;
int cudaGetDevice(int *card) { *card = current; return 0; }
int cudaSetDevice(int card) { current = card; return 0; }
int cudaGetDeviceCount(int *count) { return cuDeviceGetCount(count); }
int cudaDriverGetVersion(int *version) { return cuDriverGetVersion(version); }
int cudaRuntimeGetVersion(int *version) { *version = 12090; return 0; }
int cudaGetDeviceProperties_v2(struct cudaDeviceProp *made, int card) {
  memset(made, 0, sizeof *made);
  strcpy(made->name, card_name());
  made->totalGlobalMem = 24ul << 30;
  made->sharedMemPerBlock = attribute(8, card);
  made->sharedMemPerBlockOptin = attribute(97, card);
  made->sharedMemPerMultiprocessor = attribute(81, card);
  made->regsPerBlock = made->regsPerMultiprocessor = attribute(12, card);
  made->warpSize = attribute(10, card);
  made->maxThreadsPerBlock = attribute(1, card);
  made->maxThreadsPerMultiProcessor = attribute(39, card);
  made->multiProcessorCount = attribute(16, card);
  made->l2CacheSize = attribute(38, card);
  made->major = attribute(75, card);
  made->minor = attribute(76, card);
  for (int i = 0; i < 3; i++) {
    made->maxThreadsDim[i] = attribute(2 + i, card);
    made->maxGridSize[i] = attribute(5 + i, card);
  }
  return 0;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *made, int card) {
  return cudaGetDeviceProperties_v2(made, card);
}
int cudaDeviceGetAttribute(int *value, int number, int card) {
  *value = attribute(number, card);
  return 0;
}
int cudaMalloc(void **made, size_t size) { *made = memory(size); return 0; }
int cudaMallocHost(void **made, size_t size) { return cudaMalloc(made, size); }
int cudaHostAlloc(void **made, size_t size) { return cudaMalloc(made, size); }
int cudaFree(void *block) { free(block); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size) {
  return copy(to, from, size);
}
int cudaMemcpy(void *to, const void *from, size_t size) {
  return copy(to, from, size);
}
int cudaMemset(void *block, int value, size_t size) {
  return cuMemsetD8_v2(block, value, size);
}
int cudaMemsetAsync(void *block, int value, size_t size) {
  return cuMemsetD8_v2(block, value, size);
}
int cudaMemGetInfo(size_t *left, size_t *size) {
  return cuMemGetInfo_v2(left, size);
}
int cudaStreamSynchronize(void) { COUNT(WAITS); return 0; }
int cudaDeviceSynchronize(void) { COUNT(WAITS); return 0; }
int cudaStreamIsCapturing(void *stream, int *status) {
  *status = 0;
  return 0;
}
int cudaEventElapsedTime(float *milliseconds) {
  *milliseconds = 0.01f;
  return 0;
}
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  return cuCtxGetStreamPriorityRange(least, greatest);
}
int cudaPointerGetAttributes(
    struct cudaPointerAttributes *made, const void *block) {
  memset(made, 0, sizeof *made);
  made->type = 2; /* a card's memory */
  made->devicePointer = (void *)block;
  return 0;
}
int cudaGetSymbolAddress(void **block) { *block = memory(65536); return 0; }
int cudaGetFuncBySymbol(void **made) { *made = handle(); return 0; }
int cudaGetDriverEntryPoint(
    const char *name, void **function, unsigned long flags, int *result) {
  *function = 0;
  if (result) *result = 1; /* not found */
  return 0;
}
const char *cudaGetErrorString(int error) { return "the null card"; }
const char *cudaGetErrorName(int error) { return "NULL"; }
int cudaLaunchKernel(void) { COUNT(LAUNCHES); return 0; }
int cudaLaunchKernelExC(void) { COUNT(LAUNCHES); return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *made) {
  memset(made, 0, sizeof *made);
  made->maxThreadsPerBlock = 1024;
  made->ptxVersion = made->binaryVersion = capability();
  made->maxDynamicSharedSizeBytes = 49152;
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *number) {
  *number = 2;
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *number) {
  *number = 2;
  return 0;
}
/* A launch <<<grid, block>>> pushes its configuration, and pops it. */
void **__cudaRegisterFatBinary(void *code) { return handle(); }
static __thread struct { dim3 grid, block; size_t size; void *stream; } pushed;
unsigned __cudaPushCallConfiguration(
    dim3 grid, dim3 block, size_t size, void *stream) {
  pushed.grid = grid;
  pushed.block = block;
  pushed.size = size;
  pushed.stream = stream;
  return 0;
}
int __cudaPopCallConfiguration(
    dim3 *grid, dim3 *block, size_t *size, void **stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *size = pushed.size;
  *stream = pushed.stream;
  return 0;
}

/* cuBLAS. */
int cublasGetVersion_v2(void *on, int *version) { *version = 120900; return 0; }
int cublasGetProperty(int part, int *value) {
  *value = part == 0 ? 12 : part == 1 ? 9 : 0;
  return 0;
}
int cublasGetMathMode(void *on, int *mode) { *mode = 0; return 0; }
int cublasGetPointerMode_v2(void *on, int *mode) { *mode = 0; return 0; }
int cublasGetStream_v2(void *on, void **stream) { *stream = 0; return 0; }
const char *cublasGetStatusString(int status) { return "the null card"; }
#define PRODUCT(function) int function(void) { COUNT(PRODUCTS); return 0; }
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmBatchedEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasLtMatmul)
size_t cublasLtGetVersion(void) { return 120900; }
int cublasLtMatmulAlgoGetHeuristic(
    void *on, void *product, void *a, void *b, void *c, void *d,
    void *preference, int most, char *results, int *found) {
  memset(results, 0, 96);
  *found = 1;
  return 0;
}
int cublasLtMatmulDescGetAttribute(
    void *product, int number, void *value, size_t size, size_t *written) {
  memset(value, 0, size);
  if (written) *written = size;
  return 0;
}
int cublasLtMatrixLayoutGetAttribute(
    void *layout, int number, void *value, size_t size, size_t *written) {
  return cublasLtMatmulDescGetAttribute(layout, number, value, size, written);
}

/* cuDNN: a recurrent layer's sizes are right, since TensorFlow checks them. */
size_t cudnnGetVersion(void) { return setting("NULL_CUDNN", 92800); }
size_t cudnnGetCudartVersion(void) { return 12090; }
int cudnnGetProperty(int part, int *value) {
  int version = cudnnGetVersion();
  *value = part == 0 ? version / 10000 : part == 1 ? version / 100 % 100 : 0;
  return 0;
}
const char *cudnnGetErrorString(int error) { return "the null card"; }
struct layer { int gates, inputs, units, layers, bytes; };
int cudnnSetRNNDescriptor_v8(
    struct layer *layer, int algorithm, int cell, int bias, int direction,
    int mode, int type, int precision, int math, int inputs, int units,
    int projection, int layers, void *dropout, unsigned flags) {
  layer->gates = cell == 2 ? 4 : cell == 3 ? 3 : 1;
  layer->inputs = inputs;
  layer->units = units;
  layer->layers = layers;
  layer->bytes = type == 0 ? 4 : type == 1 ? 8 : 2;
  return 0;
}
int cudnnGetRNNWeightSpaceSize(void *on, struct layer *layer, size_t *size) {
  size_t numbers = 0;
  for (int i = 0; i < layer->layers; i++) {
    size_t rows = (i ? layer->units : layer->inputs) + layer->units + 2;
    numbers += layer->gates * rows * layer->units;
  }
  *size = numbers * layer->bytes;
  return 0;
}
int cudnnGetRNNTempSpaceSizes(
    void *on, void *layer, int mode, void *data, size_t *work, size_t *kept) {
  if (work) *work = 1 << 20;
  if (kept) *kept = 8 << 20;
  return 0;
}
int cudnnGetRNNWeightParams(
    void *on, void *layer, int number, size_t size, const char *weights,
    int gate, void *matrix, const char **matrix_start, void *bias,
    const char **bias_start) {
  if (matrix_start) *matrix_start = weights + 256;
  if (bias_start) *bias_start = weights + 512;
  return 0;
}
int cudnnGetTensorNdDescriptor(
    void *tensor, int most, int *type, int *rank, int *sizes, int *strides) {
  if (type) *type = 0;
  if (rank) *rank = 3;
  for (int i = 0; i < most; i++) sizes[i] = strides[i] = 1;
  return 0;
}
int cudnnGetFilterNdDescriptor(
    void *filter, int most, int *type, int *format, int *rank, int *sizes) {
  if (type) *type = 0;
  if (format) *format = 0;
  if (rank) *rank = 3;
  for (int i = 0; i < most; i++) sizes[i] = 1;
  return 0;
}
int cudnnRNNForward(void) { COUNT(RNNS); return 0; }
int cudnnRNNBackwardData_v8(void) { COUNT(RNNS); return 0; }
int cudnnRNNBackwardWeights_v8(void) { COUNT(RNNS); return 0; }
int cudnnDropoutGetStatesSize(void *on, size_t *size) {
  *size = 1 << 16;
  return 0;
}
int cudnnGetStream(void *on, void **stream) { *stream = 0; return 0; }

/* NCCL. Each card keeps its own numbers. */
int ncclGetVersion(int *version) { *version = 23203; return 0; }
const char *ncclGetErrorString(int error) { return "the null card"; }
const char *ncclGetLastError(void *on) { return "the null card"; }
int ncclCommGetAsyncError(void *on, int *error) { *error = 0; return 0; }
int ncclGetUniqueId(char *id) { memset(id, 1, 128); return 0; }
int ncclCommCount(void *on, int *count) { *count = num_cards(); return 0; }
int ncclCommInitAll(void **made, int number, const int *cards) {
  for (int i = 0; i < number; i++) made[i] = handle();
  return 0;
}
int ncclAllReduce(const void *from, void *to, size_t number, int type) {
  static const int bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  COUNT(SUMS);
  memcpy(to, from, number * bytes[type]);
  return 0;
}
