// NCCL and the CUDA driver are opened at run time and neither's headers are needed to build: the few types below are
// declared from the documentation of NCCL 2.14 and later (nccl.h) and of the CUDA driver API (cuda.h).
//
// The communicator is non-blocking, so that no thread is ever stuck inside NCCL: every call is polled here, against the
// group's timeout and `abort`. Both a failure and the end of the group abort the communicator rather than destroy it,
// since destroying can wait for peers for ever.

#include "nccl.h"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace grpo_native {

namespace {

using Clock = std::chrono::steady_clock;

// ---- NCCL -----------------------------------------------------------------------------------------------------------

struct NcclUniqueId {
  char bytes[128];
};

// The fields that every version from 2.14 on has; NCCL fills in the others when `version` is older than its own.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};

using NcclComm = struct NcclCommunicatorHandle*;
using CudaStream = void*;
using NcclResult = int;
constexpr NcclResult kSuccess = 0, kRemoteError = 6, kInProgress = 7;
constexpr int kOldestVersion = 21400;

// Name, then the types of the arguments. All return a result but ncclGetErrorString.
#define NCCL_FUNCTIONS(F)                                                                               \
  F(ncclGetVersion, (int*))                                                                             \
  F(ncclGetUniqueId, (NcclUniqueId*))                                                                   \
  F(ncclCommInitRankConfig, (NcclComm*, int ranks, NcclUniqueId, int rank, NcclConfig*))                \
  F(ncclCommAbort, (NcclComm))                                                                          \
  F(ncclCommFinalize, (NcclComm))                                                                       \
  F(ncclCommDestroy, (NcclComm))                                                                        \
  F(ncclCommGetAsyncError, (NcclComm, NcclResult*))                                                     \
  F(ncclAllReduce, (const void*, void*, size_t count, int dtype, int op, NcclComm, CudaStream))         \
  F(ncclReduceScatter, (const void*, void*, size_t count_out, int dtype, int op, NcclComm, CudaStream)) \
  F(ncclAllGather, (const void*, void*, size_t count_in, int dtype, NcclComm, CudaStream))              \
  F(ncclBroadcast, (const void*, void*, size_t count, int dtype, int root, NcclComm, CudaStream))       \
  F(ncclReduce, (const void*, void*, size_t count, int dtype, int op, int root, NcclComm, CudaStream))

// grpo_dtype and ReduceOp as NCCL numbers them: f32, bf16, f16, i32; sum, max, min.
constexpr int kDTypes[] = {7, 9, 6, 2};
constexpr int kOps[] = {0, 2, 3};

// ---- the CUDA driver ------------------------------------------------------------------------------------------------

using CudaContext = void*;
using CudaResult = int;
constexpr CudaResult kNotReady = 600;
constexpr unsigned kNonBlockingStream = 1;

#define CUDA_FUNCTIONS(F)                          \
  F(cuInit, (unsigned))                            \
  F(cuDeviceGet, (int* device, int ordinal))       \
  F(cuDevicePrimaryCtxRetain, (CudaContext*, int)) \
  F(cuDevicePrimaryCtxRelease_v2, (int device))    \
  F(cuCtxSetCurrent, (CudaContext))                \
  F(cuStreamCreate, (CudaStream*, unsigned flags)) \
  F(cuStreamDestroy_v2, (CudaStream))              \
  F(cuStreamQuery, (CudaStream))

#define DECLARE(name, arguments) int(*name) arguments = nullptr;
struct Functions {
  NCCL_FUNCTIONS(DECLARE)
  CUDA_FUNCTIONS(DECLARE)
  const char* (*ncclGetErrorString)(NcclResult) = nullptr;
};
#undef DECLARE

template <class Function>
bool look_up(void* library, const char* name, Function& function, std::string& problem) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function && problem.empty()) problem = std::string("it does not export ") + name;
  return function != nullptr;
}

void* open_library(const std::string& path, std::vector<Attempt>& attempts) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    attempts.push_back({path, "load", reason ? reason : "dlopen failed"});
  }
  return library;
}

bool load_driver(Functions& f, std::vector<Attempt>& attempts) {
  const std::string path = "libcuda.so.1";
  void* library = open_library(path, attempts);
  if (!library) return false;
  std::string problem;
#define LOOK_UP(name, arguments) look_up(library, #name, f.name, problem);
  CUDA_FUNCTIONS(LOOK_UP)
  if (problem.empty()) return true;
  attempts.push_back({path, "abi", problem});
  return false;
}

bool load_nccl(Functions& f, const std::vector<std::string>& libraries, std::vector<Attempt>& attempts) {
  for (const std::string& path : libraries) {
    void* library = open_library(path, attempts);
    if (!library) continue;
    std::string problem;
    NCCL_FUNCTIONS(LOOK_UP)
    look_up(library, "ncclGetErrorString", f.ncclGetErrorString, problem);
    int version = 0;
    if (problem.empty() && (f.ncclGetVersion(&version) != kSuccess || version < kOldestVersion)) {
      problem = "expected NCCL 2.14 or later but its version number is " + std::to_string(version);
    }
    if (problem.empty()) return true;
    attempts.push_back({path, "abi", problem});
    dlclose(library);
  }
  return false;
}
#undef LOOK_UP

// ---- the communicator -----------------------------------------------------------------------------------------------

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(const Functions& functions, const CommunicatorOptions& options) : f_(functions), options_(options) {}

  ~NcclCommunicator() override {
    disconnect();
    if (stream_) f_.cuStreamDestroy_v2(stream_);
    if (context_) f_.cuDevicePrimaryCtxRelease_v2(device_);
  }

  // Makes the device's primary context, which the CUDA runtime uses too, current on this thread.
  std::string open_device() {
    const auto step = [](int status, const char* what) {
      return status == 0 ? std::string() : std::string(what) + " failed with CUDA error " + std::to_string(status);
    };
    std::string problem = step(f_.cuInit(0), "cuInit");
    if (problem.empty()) problem = step(f_.cuDeviceGet(&device_, options_.device_ordinal), "cuDeviceGet");
    if (problem.empty()) problem = step(f_.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
    if (problem.empty()) problem = step(f_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    if (problem.empty()) problem = step(f_.cuStreamCreate(&stream_, kNonBlockingStream), "cuStreamCreate");
    return problem;
  }

  // Rank 0 makes the id that all ranks connect with.
  std::string address() override {
    NcclUniqueId id{};
    if (options_.rank != 0 || f_.ncclGetUniqueId(&id) != kSuccess) return "";
    return std::string(id.bytes, sizeof id.bytes);
  }

  Outcome connect(const std::vector<std::string>& addresses) override {
    NcclUniqueId id;
    if (addresses.empty() || addresses[0].size() != sizeof id.bytes) {
      return {"engine", 0, "rank 0 could not make an NCCL id"};
    }
    std::memcpy(id.bytes, addresses[0].data(), sizeof id.bytes);
    const auto deadline = new_deadline();
    NcclConfig config;
    const NcclResult result = f_.ncclCommInitRankConfig(&comm_, options_.world_size, id, options_.rank, &config);
    return finish(accepted(result, deadline));
  }

  Outcome run(const CollectiveCall& call) override {
    if (!comm_) return {"aborted", -1, "the group was aborted"};
    if (call.kind == CollectiveKind::kClose) return close();
    const auto deadline = new_deadline();
    Outcome outcome = accepted(queue(call), deadline);
    if (outcome.reason.empty()) outcome = completed(deadline);
    outcome.bytes_sent = ring_bytes(call);
    return finish(outcome);
  }

  void abort() override { aborted_ = true; }

  void disconnect() override {
    if (comm_) f_.ncclCommAbort(comm_);
    comm_ = nullptr;
  }

 private:
  Clock::time_point new_deadline() const {
    return Clock::now() +
           std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.timeout_seconds));
  }

  NcclResult queue(const CollectiveCall& call) {
    const int dtype = kDTypes[call.dtype], op = kOps[static_cast<uint32_t>(call.op)];
    switch (call.kind) {
      case CollectiveKind::kAllReduce:
        return f_.ncclAllReduce(call.in, call.out, call.count, dtype, op, comm_, stream_);
      case CollectiveKind::kReduceScatter:
        return f_.ncclReduceScatter(call.in, call.out, call.count, dtype, op, comm_, stream_);
      case CollectiveKind::kAllGather:
        return f_.ncclAllGather(call.in, call.out, call.count, dtype, comm_, stream_);
      case CollectiveKind::kReduce:
        return f_.ncclReduce(call.in, call.out, call.count, dtype, op, static_cast<int>(call.root), comm_, stream_);
      default:
        return f_.ncclBroadcast(call.in, call.out, call.count, dtype, static_cast<int>(call.root), comm_, stream_);
    }
  }

  // Waits until NCCL has taken a call, which it may do in the background.
  Outcome accepted(NcclResult result, Clock::time_point deadline) {
    while (result == kInProgress) {
      if (Outcome stopped = interrupted(deadline); !stopped.reason.empty()) return stopped;
      if (f_.ncclCommGetAsyncError(comm_, &result) != kSuccess) break;
    }
    return failure_of(result);
  }

  // Waits until the stream has run everything.
  Outcome completed(Clock::time_point deadline) {
    while (true) {
      const CudaResult status = f_.cuStreamQuery(stream_);
      if (status == 0) return {};
      if (status != kNotReady) return {"engine", -1, "cuStreamQuery failed with CUDA error " + std::to_string(status)};
      NcclResult result = kSuccess;
      f_.ncclCommGetAsyncError(comm_, &result);
      if (result != kSuccess && result != kInProgress) return failure_of(result);
      if (Outcome stopped = interrupted(deadline); !stopped.reason.empty()) return stopped;
    }
  }

  Outcome interrupted(Clock::time_point deadline) {
    if (aborted_) return {"aborted", -1, "the group was aborted"};
    if (Clock::now() >= deadline) {
      return {"timeout", -1, "NCCL did not finish within " + std::to_string(options_.timeout_seconds) + " seconds"};
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    return {};
  }

  Outcome failure_of(NcclResult result) {
    if (result == kSuccess) return {};
    return {result == kRemoteError ? "peer" : "engine", -1, std::string("NCCL: ") + f_.ncclGetErrorString(result)};
  }

  Outcome finish(Outcome outcome) {
    if (!outcome.reason.empty()) disconnect();
    return outcome;
  }

  Outcome close() {
    const auto deadline = new_deadline();
    Outcome outcome = accepted(f_.ncclCommFinalize(comm_), deadline);
    if (outcome.reason.empty()) {
      f_.ncclCommDestroy(comm_);
      comm_ = nullptr;
    }
    return finish(outcome);
  }

  // What a rank of a ring sends.
  uint64_t ring_bytes(const CollectiveCall& call) const {
    const uint64_t n = options_.world_size, bytes = call.count * collective_element_bytes(call.dtype);
    if (call.kind == CollectiveKind::kAllReduce) return 2 * bytes * (n - 1) / n;
    if (call.kind == CollectiveKind::kReduce) return static_cast<int>(call.root) == options_.rank ? 0 : bytes;
    return call.kind == CollectiveKind::kBroadcast ? bytes : bytes * (n - 1);
  }

  const Functions f_;
  const CommunicatorOptions options_;
  std::atomic<bool> aborted_{false};
  int device_ = 0;
  CudaContext context_ = nullptr;
  CudaStream stream_ = nullptr;
  NcclComm comm_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> open_nccl(const std::vector<std::string>& libraries, const CommunicatorOptions& options,
                                        std::vector<Attempt>& attempts) {
  Functions functions;
  if (!load_driver(functions, attempts) || !load_nccl(functions, libraries, attempts)) return nullptr;
  auto communicator = std::make_unique<NcclCommunicator>(functions, options);
  const std::string problem = communicator->open_device();
  if (problem.empty()) return communicator;
  attempts.push_back({"cuda:" + std::to_string(options.device_ordinal), "device", problem});
  return nullptr;
}

}  // namespace grpo_native
