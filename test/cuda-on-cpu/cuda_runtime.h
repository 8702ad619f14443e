// A stand-in for CUDA's runtime header that lets the host compiler build the files of kernels/cuda/ and run their
// kernels on the processor, for tests on machines without a GPU (`npm run build:cuda-on-cpu`). Blocks run one after
// another, those of a cluster by turns; each thread of a block is a fibre that runs until it waits: at a barrier, a
// shuffle or any other operation of the whole warp. All the waiting is checked: a barrier that some thread never
// reaches ends the process with a message, and so does a block that reaches for the memory of one that does not run.
// Blocks run their threads in three orders by turns, of which one lets a warp run ahead of the others, and so do the
// first blocks of launches, which brings out results that depend on an order that CUDA does not promise.
//
// Only what the kernels use is here. What differs from CUDA: memory is the host's; kernels have run when their launch
// returns. Copies from the host have not: they are carried out when the stream is next used or waited for, and end the
// process where their source has changed by then.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
// All shared variables lie in the one block of thread-local memory of the library, which each block of a cluster has a
// copy of.
#define __shared__ static thread_local
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- where a thread is, and what it shares --------------------------------------------------------------------------

// Those of the fibre that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
unsigned char* dynamic_shared();
// Gives `bytes` of this lane to the warp and waits for the 32 lanes; the other lanes' bytes lie kLaneBytes apart.
constexpr size_t kLaneBytes = 32;
const unsigned char* exchange(const void* value, size_t bytes);
void run(dim3 grid, dim3 block, unsigned cluster, size_t shared, void (*body)(void*), void* argument);
// The end of the process, with a message that says which thread runs.
[[noreturn]] void give_up(const char* message);
// cp.async.cg.shared.global of 16 bytes, of which the source gives `from_bytes` and the rest are zeros. Until its
// thread waits, the place holds neither what was there nor what comes, but wrong numbers.
void copy_async(void* to, const void* from, unsigned from_bytes);
// cp.async.wait_all.
void wait_for_copies();
}  // namespace cuda_on_cpu

void __syncthreads();
inline void __threadfence() {}

unsigned __clusterSizeInBlocks();
unsigned __clusterRelativeBlockRank();
void __cluster_barrier_arrive();
void __cluster_barrier_wait();
void* __cluster_map_shared_rank(const void* shared, unsigned rank);

// ---- warps: every lane takes part -----------------------------------------------------------------------------------

namespace cuda_on_cpu {
void check_mask(unsigned mask);
inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }
template <class T>
T value_of(const unsigned char* values, unsigned lane) {
  T value;
  std::memcpy(&value, values + kLaneBytes * lane, sizeof value);
  return value;
}
}  // namespace cuda_on_cpu

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::check_mask(mask);
  cuda_on_cpu::exchange("", 1);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  static_assert(sizeof(T) <= cuda_on_cpu::kLaneBytes);
  cuda_on_cpu::check_mask(mask);
  const unsigned lane = cuda_on_cpu::lane(), first = lane / width * width;
  return cuda_on_cpu::value_of<T>(cuda_on_cpu::exchange(&value, sizeof value), first + unsigned(from) % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  cuda_on_cpu::check_mask(mask);
  const unsigned lane = cuda_on_cpu::lane(), other = lane ^ unsigned(bits);
  const unsigned char* values = cuda_on_cpu::exchange(&value, sizeof value);
  return cuda_on_cpu::value_of<T>(values, other < lane / width * width + width ? other : lane);
}
// ---- functions ------------------------------------------------------------------------------------------------------

// Fibres switch only where they wait, so that this is atomic as it is.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, T(*address + value));
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
template <class T>
T min(T a, std::type_identity_t<T> b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, std::type_identity_t<T> b) {
  return a < b ? b : a;
}

// ---- the runtime ----------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalAddress = 700,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureWrongThread = 908
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrMemoryPoolsSupported };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold, cudaMemPoolAttrReservedMemCurrent };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;

// The library's own streams have run what they hold. One that a test gives may lag: `finish` runs what it holds.
struct CudaOnCpuStream {
  void (*finish)(CudaOnCpuStream*);
  void (*wait)(CudaOnCpuStream*);  // told that what is queued from now on waits for an event
  int device;
  // Starts a kernel, and whether it is only noted, for libraries beside this one. Only of the library's own streams.
  cudaError_t (*launch)(CudaOnCpuStream*, std::function<void()>);
  bool (*captures)(CudaOnCpuStream*);
};
struct CudaOnCpuEvent {
  CudaOnCpuStream* stream;
  bool recorded;
};
using cudaStream_t = CudaOnCpuStream*;
using cudaEvent_t = CudaOnCpuEvent*;
using cudaMemPool_t = struct CudaOnCpuPool*;
using cudaGraph_t = struct CudaOnCpuGraph*;
using cudaGraphExec_t = struct CudaOnCpuGraph*;

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
};

const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
struct cudaFuncAttributes {};
// GRPO_CUDA_ON_CPU_NO_CODE: the library was built for other devices.
cudaError_t cuda_on_cpu_find_code();
template <class F>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, F*) {
  return cuda_on_cpu_find_code();
}

namespace cuda_on_cpu {
using Kernel = void (*)();
cudaError_t check_launch(Kernel kernel, const cudaLaunchConfig_t& config);
// Lets a block have so much dynamic shared memory.
cudaError_t allow_shared(Kernel kernel, int bytes);
// What the host calls, and the graphs that there are: exported for tests as `cuda_on_cpu_counts`, an int32 each.
enum Count { kKernelLaunches, kCopies, kGraphLaunches, kLiveGraphs, kCounts };
void count(Count what, int by = 1);
// Runs the work, or notes it while the stream is being captured.
cudaError_t submit(Count call, cudaStream_t stream, std::function<void()> work);
bool is_captured(cudaStream_t stream);
// The error of what a captured stream does not take; cudaSuccess for another.
cudaError_t end_of_capture(cudaStream_t stream);
// Carries out the copies from the host that the stream holds.
void finish_copies(cudaStream_t stream);
}  // namespace cuda_on_cpu

// GRPO_CUDA_ON_CPU_CLUSTERS of any kind, 1 when it is not set.
cudaError_t cuda_on_cpu_clusters(int* clusters, cuda_on_cpu::Kernel kernel, const cudaLaunchConfig_t& config);
template <class F>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, F* kernel, const cudaLaunchConfig_t* config) {
  return cuda_on_cpu_clusters(clusters, reinterpret_cast<cuda_on_cpu::Kernel>(kernel), *config);
}
template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, cudaFuncAttribute, int bytes) {
  return cuda_on_cpu::allow_shared(reinterpret_cast<cuda_on_cpu::Kernel>(kernel), bytes);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const auto unnamed = reinterpret_cast<cuda_on_cpu::Kernel>(kernel);
  if (const cudaError_t error = cuda_on_cpu::check_launch(unnamed, *config)) return error;
  auto call = [kernel, values = std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)] {
    std::apply(kernel, values);
  };
  const unsigned cluster = config->numAttrs > 0 ? config->attrs[0].val.clusterDim.x : 1;
  return cuda_on_cpu::submit(cuda_on_cpu::kKernelLaunches, config->stream, [config = *config, cluster, call] {
    using Call = decltype(call);
    cuda_on_cpu::run(
        config.gridDim, config.blockDim, cluster, config.dynamicSmemBytes,
        [](void* argument) { (*static_cast<Call*>(argument))(); }, const_cast<void*>(static_cast<const void*>(&call)));
  });
}
