// What a communication library does for a group of processes. Two implement it: Gloo (gloo.cc, in a library of its own)
// and NCCL (nccl.cc). All functions but abort() are called on the group's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace grpo_native {

enum class CollectiveKind : uint32_t { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kReduce, kClose };
enum class ReduceOp : uint32_t { kSum, kMax, kMin };

struct CollectiveCall {
  CollectiveKind kind;
  ReduceOp op;        // kAllReduce; kReduceScatter and kReduce sum
  uint32_t dtype;     // grpo_dtype
  uint32_t root;      // kBroadcast, kReduce
  uint64_t count;     // elements of the smaller tensor: what a rank has alone
  uint64_t sequence;  // which call of the group this is, from 1
  const void* in;
  void* out;
};

// How a call went. An empty `reason` is success; the others are those of CollectiveFailure in src/errors.ts.
struct Outcome {
  std::string reason;
  int peer = -1;  // the rank to blame, when one is known
  std::string detail;
  uint64_t bytes_sent = 0;
};

struct CommunicatorOptions {
  int rank, world_size;
  double timeout_seconds;
  std::string interface;  // Gloo: a network interface or an address; empty: that of the host's name
  int device_ordinal;     // NCCL
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  // What the other ranks need to know to connect to this one.
  virtual std::string address() = 0;
  // The addresses of all ranks, in rank order.
  virtual Outcome connect(const std::vector<std::string>& addresses) = 0;
  virtual Outcome run(const CollectiveCall& call) = 0;
  // On any thread, more than once: ends the call in progress, and all later ones, soon and with an error.
  virtual void abort() = 0;
  // After abort() or a failure: so that the other ranks notice.
  virtual void disconnect() = 0;
};

inline size_t collective_element_bytes(uint32_t dtype) { return dtype == 1 || dtype == 2 ? 2 : 4; }

// What libgrpo_gloo.so exports as `grpo_gloo_version` and `grpo_gloo_open`. It is built together with the addon, by the
// same compiler; the version guards against a stale file.
constexpr uint32_t kGlooLibraryVersion = 2;
using GlooOpen = Communicator* (*)(const CommunicatorOptions& options, std::string& error);

}  // namespace grpo_native
