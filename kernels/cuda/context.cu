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

}  // namespace

grpo_context::grpo_context(int ordinal, const std::string& options) : ordinal_(ordinal) {
  require(cudaSetDevice(ordinal), "choosing the device");
  require(cudaGetDeviceProperties(&properties_, ordinal), "reading the device's properties");
  if (properties_.major < 8) {
    throw std::runtime_error(std::string(properties_.name) + " has compute capability " +
                             std::to_string(properties_.major) + "." + std::to_string(properties_.minor) +
                             "; 8.0 or later is needed");
  }
  int pools = 0;
  require(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, ordinal), "asking for memory pools");
  if (!pools) throw std::runtime_error(std::string(properties_.name) + " does not support CUDA's memory pools");
  const std::string stream = grpo_option(options, "stream"), checks = grpo_option(options, "check_indices");
  if (stream.empty()) {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  } else {
    owns_stream_ = false;
    stream_ = reinterpret_cast<cudaStream_t>(std::strtoull(stream.c_str(), nullptr, 0));
  }
  require(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "creating an event");
  if (!checks.empty() && checks != "0" && checks != "1") {
    throw std::runtime_error("expected 0 or 1 for check_indices but received " + checks);
  }
  checks_indices_ = checks != "0";
  require(pool_.open(ordinal, stream_), "opening the memory pool");
  require(cudaMallocAsync(reinterpret_cast<void**>(&counters_), kCounters * sizeof(unsigned), stream_),
          "reserving memory");
  require(cudaMemsetAsync(counters_, 0, kCounters * sizeof(unsigned), stream_), "clearing memory");
  require(cudaStreamSynchronize(stream_), "waiting for the device");
  blas_ = new grpo_cuda::Blas(stream_);
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  description = "name=" + std::string(properties_.name) + "\ncapability=" + std::to_string(properties_.major) + "." +
                std::to_string(properties_.minor) + "\nmultiprocessors=" + std::to_string(processors()) +
                "\nmemory=" + std::to_string(properties_.totalGlobalMem >> 20) +
                " MiB\ndriver=" + version_text(driver) + "\nruntime=" + version_text(runtime) +
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
  if (!lost()) cudaStreamSynchronize(stream_);
  cudaEventDestroy(event_);
  if (owns_stream_) cudaStreamDestroy(stream_);
}

void* grpo_context::scratch(size_t bytes, ScratchSlot slot) {
  Scratch& scratch = scratch_[slot];
  if (bytes <= scratch.bytes) return scratch.data;
  if (capture_) return fail(GRPO_UNSUPPORTED, "scratch space would have to grow while calls are captured"), nullptr;
  ++scratch_moves_;
  if (scratch.data) cudaFreeAsync(scratch.data, stream_);
  scratch = {};
  // A quarter more, so that slowly growing requests do not each allocate; without it where memory is short.
  for (const size_t size : {bytes + bytes / 4, bytes}) {
    const cudaError_t error = cudaMallocAsync(&scratch.data, size, stream_);
    if (error == cudaSuccess) {
      scratch.bytes = size;
      return scratch.data;
    }
    cudaGetLastError();
    scratch.data = nullptr;
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
  pool_.keep_copy(device, host, bytes);
  // Memory of the host that is not pinned has been read when this returns.
  const cudaError_t result = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_);
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
