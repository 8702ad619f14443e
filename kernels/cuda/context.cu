#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../common/options.h"
#include "blas.h"
#include "context.h"

using grpo_cuda::ScratchSlot;

namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Of the driver, and of the runtime that this library was built with.
struct Versions {
  int driver = 0, runtime = 0;
  Versions() {
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
  }
};

void require_device(int ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    const Versions versions;
    if (versions.driver == 0) throw std::runtime_error("there is no driver of NVIDIA (libcuda.so.1) on this system");
    throw std::runtime_error("the driver is for CUDA " + version_text(versions.driver) +
                             ", and this library was built with " + version_text(versions.runtime) +
                             ": update the driver, or build the library with a toolkit that is not newer");
  }
  if (error != cudaErrorNoDevice) require(error, "counting the devices");
  if (ordinal < count) return;
  cudaGetLastError();
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  throw std::runtime_error("this process sees " + std::to_string(count) + " CUDA device(s)" +
                           (visible ? ", with CUDA_VISIBLE_DEVICES=" + std::string(visible) : "") + ", and number " +
                           std::to_string(ordinal) + " was asked for (numbers start at 0)");
}

// Stands for all kernels: they are compiled for the same devices.
__global__ void any_kernel() {}

void require_code(const cudaDeviceProp& device) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, any_kernel);
  if (error == cudaSuccess) return;
  cudaGetLastError();
  const std::string major = std::to_string(device.major), minor = std::to_string(device.minor);
  throw std::runtime_error("this library has no code for " + std::string(device.name) + " of compute capability " +
                           major + "." + minor + " (" + cudaGetErrorString(error) +
                           "): build it with GRPO_CUDA_ARCHITECTURES=" + major + minor);
}

}  // namespace

grpo_context::grpo_context(int ordinal, const std::string& options) : ordinal_(ordinal) {
  require_device(ordinal);
  require(cudaSetDevice(ordinal), "choosing the device");
  require(cudaGetDeviceProperties(&properties_, ordinal), "reading the device's properties");
  if (properties_.major < 8) {
    throw std::runtime_error(std::string(properties_.name) + " has compute capability " +
                             std::to_string(properties_.major) + "." + std::to_string(properties_.minor) +
                             "; 8.0 or later is needed");
  }
  require_code(properties_);
  int pools = 0;
  require(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, ordinal), "asking for memory pools");
  if (!pools) throw std::runtime_error(std::string(properties_.name) + " does not support CUDA's memory pools");
  const std::string stream = grpo_option(options, "stream"), checks = grpo_option(options, "check_indices");
  if (stream.empty()) {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  } else {
    owns_stream_ = false;
    char* end = nullptr;
    stream_ = reinterpret_cast<cudaStream_t>(std::strtoull(stream.c_str(), &end, 0));
    if (*end) throw std::runtime_error("expected the address of a stream for stream but received " + stream);
  }
  require(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event");
  if (!checks.empty() && checks != "0" && checks != "1") {
    throw std::runtime_error("expected 0 or 1 for check_indices but received " + checks);
  }
  checks_indices_ = checks != "0";
  require(pool_.open(ordinal, stream_), "opening the memory pool");
  require(staging_.open(), "reserving pinned memory of the host");
  require(cudaMallocAsync(reinterpret_cast<void**>(&counters_), kCounters * sizeof(unsigned), stream_),
          "reserving memory");
  require(cudaMemsetAsync(counters_, 0, kCounters * sizeof(unsigned), stream_), "clearing memory");
  require(cudaStreamSynchronize(stream_), "waiting for the device");
  blas_ = new grpo_cuda::Blas(stream_);
  const Versions versions;
  description = "name=" + std::string(properties_.name) + "\ncapability=" + std::to_string(properties_.major) + "." +
                std::to_string(properties_.minor) + "\nmultiprocessors=" + std::to_string(processors()) +
                "\nmemory=" + std::to_string(properties_.totalGlobalMem >> 20) +
                " MiB\ndriver=" + version_text(versions.driver) + "\nruntime=" + version_text(versions.runtime) +
                "\nmatmul=" + blas_->description();
}

grpo_context::~grpo_context() {
  cudaSetDevice(ordinal_);
  if (!lost()) cudaStreamSynchronize(stream_);
  delete blas_;
  for (Scratch& scratch : scratch_) {
    if (scratch.data) cudaFreeAsync(scratch.data, stream_);
  }
  cudaFreeAsync(counters_, stream_);
  pool_.close();
  if (!lost()) {
    cudaStreamSynchronize(stream_);
    pool_.trim();  // for others: PyTorch's allocator has no part in this pool
  }
  staging_.close();
  cudaEventDestroy(event_);
  if (owns_stream_) cudaStreamDestroy(stream_);
}

void* grpo_context::scratch(size_t bytes, ScratchSlot slot) {
  Scratch& scratch = scratch_[slot];
  if (bytes <= scratch.bytes) return scratch.data;
  if (capture_) return fail(GRPO_UNSUPPORTED, "scratch space would have to grow while calls are captured"), nullptr;
  if (const cudaError_t error = grpo_cuda::require_no_capture(stream_)) {
    return fail_with(error, "reserving scratch space"), nullptr;
  }
  ++scratch_moves_;
  if (scratch.data) cudaFreeAsync(scratch.data, stream_);
  scratch = {};
  // A quarter more, so that slowly growing requests do not each allocate; without it where memory is short.
  for (const size_t size : {bytes + bytes / 4, bytes}) {
    const cudaError_t error = pool_.reserve(size, &scratch.data);
    if (error == cudaSuccess) {
      scratch.bytes = size;
      return scratch.data;
    }
    if (error != cudaErrorMemoryAllocation) return fail_with(error, "cudaMallocAsync"), nullptr;
  }
  fail(GRPO_OUT_OF_MEMORY, "%zu bytes of scratch space were asked for; %llu bytes are live", bytes,
       static_cast<unsigned long long>(pool_.memory().live_bytes));
  return nullptr;
}

const int32_t* grpo_context::host_integers(const grpo_tensor& t) {
  if (capture_) return fail(GRPO_UNSUPPORTED, "it looks at the values of an index tensor on the host"), nullptr;
  int64_t count = 1;
  for (int d = 0; d < t.rank; ++d) count *= t.shape[d];
  const size_t bytes = static_cast<size_t>(count) * sizeof(int32_t);
  if (const void* copy = pool_.find_copy(t.data, bytes)) return static_cast<const int32_t*>(copy);
  integers_.resize(bytes);
  if (bytes > 0 && download(integers_.data(), t.data, bytes) != GRPO_OK) return nullptr;
  pool_.keep_copy(t.data, integers_.data(), bytes);
  return reinterpret_cast<const int32_t*>(integers_.data());
}

grpo_status grpo_context::fail_with(cudaError_t cuda_error, const char* call) {
  cudaGetLastError();
  // What a stream that is being captured does not take: the capture has failed, not the device.
  if (cuda_error >= cudaErrorStreamCaptureUnsupported && cuda_error <= cudaErrorStreamCaptureWrongThread) {
    return fail(GRPO_UNSUPPORTED, "%s: %s", call, cudaGetErrorString(cuda_error));
  }
  if (cuda_error == cudaErrorMemoryAllocation) return fail(GRPO_OUT_OF_MEMORY, "%s: out of device memory", call);
  lost_ = std::string(call) + ": " + cudaGetErrorString(cuda_error) + " (CUDA error " +
          std::to_string(static_cast<int>(cuda_error)) + "); the device can no longer be used by this process";
  return fail(GRPO_DEVICE_LOST, "%s", lost_.c_str());
}

grpo_status grpo_context::enter() {
  if (lost()) return fail(GRPO_DEVICE_LOST, "%s", lost_.c_str());
  const cudaError_t result = cudaSetDevice(ordinal_);
  return result == cudaSuccess ? GRPO_OK : fail_with(result, "cudaSetDevice");
}

grpo_status grpo_context::upload(void* device, const void* host, size_t bytes) {
  if (capture_) return fail(GRPO_UNSUPPORTED, "it copies values from the host");
  if (const cudaError_t error = grpo_cuda::require_no_capture(stream_))
    return fail_with(error, "copying from the host");
  pool_.keep_copy(device, host, bytes);
  cudaError_t result;
  if (bytes <= grpo_cuda::Staging::kSlotBytes) {
    result = staging_.upload(device, host, bytes, stream_);
  } else {
    result = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_);
    if (result == cudaSuccess) result = cudaStreamSynchronize(stream_);
  }
  return result == cudaSuccess ? GRPO_OK : fail_with(result, "cudaMemcpyAsync to the device");
}

grpo_status grpo_context::download(void* host, const void* device, size_t bytes) {
  if (capture_) return fail(GRPO_UNSUPPORTED, "it reads values back to the host");
  cudaError_t result = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_);
  if (result == cudaSuccess) result = cudaStreamSynchronize(stream_);
  return result == cudaSuccess ? GRPO_OK : fail_with(result, "reading from the device");
}

grpo_status grpo_context::synchronize() {
  // Others may write to this memory next: collectives do.
  pool_.forget_copies();
  const cudaError_t result = cudaStreamSynchronize(stream_);
  return result == cudaSuccess ? GRPO_OK : fail_with(result, "cudaStreamSynchronize");
}

grpo_status grpo_context::order(cudaStream_t first, cudaStream_t then) {
  pool_.forget_copies();  // the stream's owner may have written, or may write next
  cudaError_t result = cudaEventRecord(event_, first);
  if (result == cudaSuccess) result = cudaStreamWaitEvent(then, event_, 0);
  if (result == cudaSuccess) return GRPO_OK;
  if (result != cudaErrorInvalidResourceHandle) return fail_with(result, "cudaStreamWaitEvent");
  cudaGetLastError();
  return fail(GRPO_INVALID_ARGUMENT, "expected a stream of device %d but received one of another, or none", ordinal_);
}
