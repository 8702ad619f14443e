// A stand-in for CUDA's runtime header that lets the host compiler build the files of kernels/cuda/ and run their
// kernels on the processor, for tests on machines without a GPU (`npm run build:cuda-on-cpu`). Blocks run one after
// another (those of a cluster together); each thread of a block is a fibre that runs until it waits: at a barrier, a
// shuffle or any other operation of the whole warp. All the waiting is checked: a barrier that some thread never
// reaches ends the process with a message. Every other block runs its threads in the opposite order, and so does every
// other launch its first, which brings out results that depend on an order that CUDA does not promise.
//
// Only what the kernels use is here. What differs from CUDA: memory is the host's; kernels have run when their launch
// returns; `__shared__` variables are static, so that kernels of clusters must use dynamic_shared() (runtime.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __shared__ static
#define __constant__ static const
#define __grid_constant__
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- where a thread is, and what it shares --------------------------------------------------------------------------

// Those of the fibre that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_cpu {
unsigned char* dynamic_shared();
unsigned cluster_rank();
unsigned cluster_size();
void cluster_sync();
// The address in another block's dynamic shared memory that corresponds to one in this block's.
void* cluster_address(void* address, unsigned rank);

// Gives `bytes` of this lane to the warp and waits for the 32 lanes; the other lanes' bytes lie 16 apart.
const unsigned char* exchange(const void* value, size_t bytes);
void run(dim3 grid, dim3 block, size_t shared, unsigned cluster, void (*body)(void*), void* argument);
}  // namespace cuda_on_cpu

void __syncthreads();
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- warps: every lane takes part -----------------------------------------------------------------------------------

namespace cuda_on_cpu {
void check_mask(unsigned mask);
inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }
template <class T>
T value_of(const unsigned char* values, unsigned lane) {
  T value;
  std::memcpy(&value, values + 16 * lane, sizeof value);
  return value;
}
}  // namespace cuda_on_cpu

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::check_mask(mask);
  cuda_on_cpu::exchange("", 1);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  static_assert(sizeof(T) <= 16);
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
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  cuda_on_cpu::check_mask(mask);
  const unsigned lane = cuda_on_cpu::lane(), other = lane + distance;
  const unsigned char* values = cuda_on_cpu::exchange(&value, sizeof value);
  return cuda_on_cpu::value_of<T>(values, other < lane / width * width + width ? other : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  cuda_on_cpu::check_mask(mask);
  const unsigned lane = cuda_on_cpu::lane(), inside = lane % width;
  const unsigned char* values = cuda_on_cpu::exchange(&value, sizeof value);
  return cuda_on_cpu::value_of<T>(values, inside >= distance ? lane - distance : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  cuda_on_cpu::check_mask(mask);
  const unsigned char flag = predicate != 0;
  const unsigned char* values = cuda_on_cpu::exchange(&flag, 1);
  unsigned ballot = 0;
  for (unsigned i = 0; i < 32; ++i) ballot |= unsigned(values[16 * i]) << i;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }
int __syncthreads_or(int predicate);
int __syncthreads_count(int predicate);

// ---- functions ------------------------------------------------------------------------------------------------------

// Fibres switch only where they wait, so that these are atomic as they are.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, T(*address + value));
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address > value ? *address : value);
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, *address < value ? *address : value);
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, T(*address | value));
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return std::exchange(*address, *address == expected ? value : *address);
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
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
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrMemoryPoolsSupported, cudaDevAttrMultiProcessorCount };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold, cudaMemPoolAttrReservedMemCurrent };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributeNonPortableClusterSizeAllowed = 12
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;

using cudaStream_t = struct CudaOnCpuStream*;
using cudaEvent_t = struct CudaOnCpuEvent*;
using cudaMemPool_t = struct CudaOnCpuPool*;

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
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
  int major, minor, multiProcessorCount, l2CacheSize;
  size_t sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
};

const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset2DAsync(void* data, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventDestroy(cudaEvent_t event);
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

cudaError_t cuda_on_cpu_check_launch(const cudaLaunchConfig_t& config, unsigned cluster);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const unsigned cluster = config->numAttrs ? config->attrs[0].val.clusterDim.x : 1;
  if (const cudaError_t error = cuda_on_cpu_check_launch(*config, cluster)) return error;
  auto call = [&] { kernel(static_cast<Parameters>(arguments)...); };
  using Call = decltype(call);
  cuda_on_cpu::run(
      config->gridDim, config->blockDim, config->dynamicSmemBytes, cluster,
      [](void* argument) { (*static_cast<Call*>(argument))(); }, &call);
  return cudaSuccess;
}
