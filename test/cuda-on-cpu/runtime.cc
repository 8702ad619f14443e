// The part of CUDA's runtime that is not about threads: devices, memory, streams. There are two devices, each with
// GRPO_CUDA_ON_CPU_MEMORY bytes (16 GiB when it is not set), whose blocks may have GRPO_CUDA_ON_CPU_SHARED bytes of
// shared memory (227 KiB). Each allocation ends where a page begins that nobody may touch, so that reading or writing
// beyond it ends the process.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cuda_runtime.h"

namespace {

constexpr int kDevices = 2;
constexpr size_t kPoisoned = size_t{64} << 20;  // larger memory is not touched before it is used

struct Allocation {
  void* mapping;
  size_t mapped, bytes;
  int device;
};

std::mutex mutex;
std::unordered_map<void*, Allocation> allocations;
size_t live[kDevices] = {};
std::unordered_map<cuda_on_cpu::Kernel, size_t> allowed_shared;
thread_local int device = 0;

struct HostCopy {
  void* to;
  const void* from;
  std::vector<unsigned char> bytes;  // as they were when the copy was asked for
};
std::unordered_map<cudaStream_t, std::vector<HostCopy>> host_copies;
thread_local cudaError_t last_error = cudaSuccess;

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}
size_t capacity() { return setting("GRPO_CUDA_ON_CPU_MEMORY", size_t{16} << 30); }
size_t shared_capacity() { return setting("GRPO_CUDA_ON_CPU_SHARED", 227 << 10); }

// What a kernel's shared variables may take of a block's shared memory; the host's compiler does not tell.
constexpr size_t kSharedVariables = 1024;
// A block has up to 48 KiB where more was not allowed.
size_t dynamic_limit(cuda_on_cpu::Kernel kernel) {
  const std::lock_guard lock(mutex);
  const auto allowed = allowed_shared.find(kernel);
  return std::min(shared_capacity(), allowed == allowed_shared.end() ? (48 << 10) - kSharedVariables : allowed->second);
}

cudaError_t note(cudaError_t error) {
  if (error) last_error = error;
  return error;
}

// GRPO_CUDA_ON_CPU_DRIVER: the version that the driver has.
int driver_version() { return static_cast<int>(setting("GRPO_CUDA_ON_CPU_DRIVER", 13000)); }
constexpr int kRuntimeVersion = 13000;
constexpr size_t kMostPitch = 0x7fffffff;

template <class Work>
cudaError_t queue_copy(cudaStream_t stream, Work work) {
  return note(cuda_on_cpu::submit(cuda_on_cpu::kCopies, stream, work));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) std::atomic<int32_t> cuda_on_cpu_counts[cuda_on_cpu::kCounts];
std::atomic<int32_t> cuda_on_cpu_counts[cuda_on_cpu::kCounts];
void cuda_on_cpu::count(Count what, int by) { cuda_on_cpu_counts[what] += by; }

void cuda_on_cpu::finish_copies(cudaStream_t stream) {
  std::vector<HostCopy> copies;
  {
    const std::lock_guard lock(mutex);
    copies.swap(host_copies[stream]);
  }
  for (const HostCopy& copy : copies) {
    if (std::memcmp(copy.from, copy.bytes.data(), copy.bytes.size()) != 0) {
      give_up("the host's memory changed before an asynchronous copy from it had ended");
    }
    std::memcpy(copy.to, copy.from, copy.bytes.size());
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    default:
      return "an illegal memory access was encountered";
  }
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  if (driver_version() < kRuntimeVersion) return note(cudaErrorInsufficientDriver);
  return *count = kDevices, cudaSuccess;
}
cudaError_t cuda_on_cpu_find_code() {
  return std::getenv("GRPO_CUDA_ON_CPU_NO_CODE") ? note(cudaErrorNoKernelImageForDevice) : cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
  if (ordinal < 0 || ordinal >= kDevices) return note(cudaErrorInvalidDevice);
  return device = ordinal, cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "CUDA on the CPU");
  properties->totalGlobalMem = capacity();
  properties->major = 9;
  properties->multiProcessorCount = 4;
  properties->sharedMemPerBlockOptin = shared_capacity();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 1, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = driver_version(), cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = kRuntimeVersion, cudaSuccess; }

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  const std::lock_guard lock(mutex);
  return *static_cast<uint64_t*>(value) = live[device], cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = cuda_on_cpu::end_of_capture(stream)) return note(error);
  const std::lock_guard lock(mutex);
  if (bytes > capacity() || live[device] + bytes > capacity()) return note(cudaErrorMemoryAllocation);
  const size_t page = sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page * page;
  void* mapping = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return note(cudaErrorMemoryAllocation);
  mprotect(static_cast<char*>(mapping) + pages, page, PROT_NONE);
  if (pages <= kPoisoned) std::memset(mapping, 0xff, pages);  // NaN: what nobody wrote is seen
  // CUDA promises an alignment of 256 bytes; kernels need 16, and the end of the memory shall be near its guard.
  *data = static_cast<char*>(mapping) + (pages - bytes) / 16 * 16;
  allocations[*data] = {mapping, pages + page, bytes, device};
  live[device] += bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  if (const cudaError_t error = cuda_on_cpu::end_of_capture(stream)) return note(error);
  cuda_on_cpu::finish_copies(stream);
  const std::lock_guard lock(mutex);
  const auto found = allocations.find(data);
  if (found == allocations.end()) return note(data ? cudaErrorInvalidValue : cudaSuccess);
  munmap(found->second.mapping, found->second.mapped);
  live[found->second.device] -= found->second.bytes;
  allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind != cudaMemcpyHostToDevice) return queue_copy(stream, [=] { std::memmove(to, from, bytes); });
  // A node of a graph would read memory of the host at each launch.
  if (const cudaError_t error = cuda_on_cpu::end_of_capture(stream)) return note(error);
  return queue_copy(stream, [=] {
    const auto* first = static_cast<const unsigned char*>(from);
    const std::lock_guard lock(mutex);
    host_copies[stream].push_back({to, from, {first, first + bytes}});
  });
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return (*data = std::malloc(bytes)) ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* data) { return std::free(data), cudaSuccess; }
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (std::max(to_pitch, from_pitch) > kMostPitch || std::min(to_pitch, from_pitch) < width) {
    return note(cudaErrorInvalidValue);
  }
  return queue_copy(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return queue_copy(stream, [=] { std::memset(data, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const auto launch = [](cudaStream_t stream, std::function<void()> work) {
    return cuda_on_cpu::submit(cuda_on_cpu::kKernelLaunches, stream, std::move(work));
  };
  return *stream = new CudaOnCpuStream{nullptr, nullptr, device, launch, cuda_on_cpu::is_captured}, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  cuda_on_cpu::finish_copies(stream);
  return delete stream, cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = cuda_on_cpu::end_of_capture(stream)) return note(error);
  return cuda_on_cpu::finish_copies(stream), cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (stream && stream->wait) stream->wait(stream);
  if (event->stream && event->stream->finish) event->stream->finish(event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = new CudaOnCpuEvent{nullptr, false}, cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream && stream->device != device) return note(cudaErrorInvalidResourceHandle);
  *event = {stream, true};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->recorded) cuda_on_cpu::finish_copies(event->stream);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

cudaError_t cuda_on_cpu::allow_shared(Kernel kernel, int bytes) {
  if (bytes < 0 || bytes + kSharedVariables > shared_capacity()) return note(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  return allowed_shared[kernel] = static_cast<size_t>(bytes), cudaSuccess;
}
cudaError_t cuda_on_cpu::check_launch(Kernel kernel, const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  bool fits = threads > 0 && threads <= 1024 && threads % 32 == 0 && grid.x > 0 && grid.x <= 0x7fffffffu &&
              grid.y > 0 && grid.y <= 65535 && grid.z > 0 && grid.z <= 65535 &&
              config.dynamicSmemBytes <= dynamic_limit(kernel) && config.numAttrs <= 1;
  // A thread's kernels go to the device that it has chosen.
  if (config.stream && config.stream->device != device) return note(cudaErrorInvalidResourceHandle);
  if (fits && config.numAttrs == 1) {
    const auto& cluster = config.attrs[0].val.clusterDim;
    const bool is_size = cluster.x == 1 || cluster.x == 2 || cluster.x == 4 || cluster.x == 8;
    fits = config.attrs[0].id == cudaLaunchAttributeClusterDimension && is_size && cluster.y == 1 && cluster.z == 1 &&
           grid.x % cluster.x == 0;
  }
  return fits ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cuda_on_cpu_clusters(int* clusters, cuda_on_cpu::Kernel kernel, const cudaLaunchConfig_t& config) {
  *clusters = static_cast<int>(setting("GRPO_CUDA_ON_CPU_CLUSTERS", 1));
  return cuda_on_cpu::check_launch(kernel, config);
}
