// A device and the thread that runs its jobs in order. The public functions are for the JavaScript thread; they queue a
// job and return at once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "collectives/group.h"
#include "mailbox.h"
#include "operations.h"
#include "storage.h"

namespace grpo_native {

struct EngineOptions {
  std::string kind;                    // "cpu" or "cuda"
  int ordinal = 0;                     // below 0: only count the devices, then end
  std::string backend_options;         // grpo_backend::create
  std::vector<std::string> libraries;  // where to look for the backend's library
};

// A tensor of a call: what the kernel sees but for the address, and where that comes from.
struct TensorArgument {
  grpo_tensor tensor;
  Storage* storage = nullptr;  // nullptr: absent
  size_t byte_offset = 0;
};

struct Call {
  const Operation* operation;
  // Bit i: the operation reads, writes its i-th tensor.
  uint32_t reads, writes;
  TensorArgument tensors[kMaxTensors];
  alignas(grpo_tensor) unsigned char args[kLargestArgs];  // the scalars are in place, the tensors not yet
};

// Calls that run again and again, and the graph that the backend made of them, if it makes any.
struct Program {
  std::vector<Call> calls;
  std::vector<std::shared_ptr<Storage>> storages;  // of all their tensors, each once

  // Engine's thread.
  grpo_graph* graph = nullptr;
  bool clean = false;  // the calls ran one by one, and none failed: checks have been made and scratch space is there

  // Any thread.
  std::atomic<uint32_t> replays{0}, launches{0}, captures{0};
  std::atomic<bool> refused{false};
  std::string refusal;  // set before `refused`, never after
};

// A collective, and the tensors that it reads and writes while the engine goes on.
struct QueuedCollective {
  std::shared_ptr<Group> group;
  std::shared_ptr<Collective> collective;
  TensorArgument in, out;
};

class Engine {
 public:
  // `request` is settled when the device is open, or could not be opened.
  Engine(uint32_t id, EngineOptions options, std::shared_ptr<Mailbox> mailbox, uint64_t request);
  // Stops after the job in progress and waits for it.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // nullptr when there is no live storage of that number.
  Storage* find(double storage) const;
  double allocate(size_t bytes);
  // Jobs that follow run after what `stream` holds, if one is given. `kept`: the engine posts `freed_storage` when
  // nothing uses the memory any more.
  double adopt(void* data, size_t bytes, std::optional<void*> stream, bool kept);
  size_t release(double storage);  // the bytes freed; 0 for an unknown storage
  void write(Storage* storage, size_t offset, const void* data, size_t bytes);
  void read(Storage* storage, size_t offset, void* to, size_t bytes, uint64_t request);
  // A call to fill in and give to `run`: a used one, or a new one. All but `args` beyond the scalars is stale.
  std::unique_ptr<Call> take_call();
  void run(std::unique_ptr<Call> call);
  // A program's number. `storages`: of the calls' tensors, each once.
  double record(std::vector<Call> calls, const std::vector<double>& storages);
  Program* find_program(double program) const;
  void replay(double program);
  void release_program(double program);
  // Hands the tensors to the group when all that was queued before has run.
  void start(QueuedCollective queued);
  // What is queued afterwards runs when the collective has ended.
  void wait(std::shared_ptr<Collective> collective);
  // Waits for all jobs so far, or lets `stream` wait for them, which takes no time.
  void synchronize(uint64_t request, std::optional<void*> stream);
  // What the jobs that have run so far left.
  grpo_memory memory() const;
  // No job starts any more; waiting requests fail. The engine posts `ended_engine` when it has freed everything.
  void stop();
  bool stopped() const { return stop_; }
  const EngineOptions& options() const { return options_; }

 private:
  struct Job;
  template <class Run>
  struct JobOf;

  template <class Run>
  void enqueue(Run run, uint64_t request = 0);

  // On the engine's thread.
  void work();
  bool open();
  void run_jobs();
  FailurePtr failure_of(grpo_status status, const std::string& what);
  FailurePtr out_of_memory(size_t bytes);
  FailurePtr allocate_now(Storage& storage);
  FailurePtr synchronize_now(std::optional<void*> stream);
  void release_now(Storage& storage);
  void write_now(Storage& storage, size_t offset, const void* data, size_t bytes);
  FailurePtr read_now(Storage& storage, size_t offset, void* to, size_t bytes);
  grpo_status perform(Call& call);
  bool run_now(Call& call);
  void replay_now(Program& program);
  bool launch_now(Program& program);
  bool capture_now(Program& program);
  void drop_graph(Program& program);
  void start_now(QueuedCollective queued);
  void finish(const QueuedCollective& queued);
  template <class Touches>
  void finish_collectives(Touches touches);
  void wait_for_memory(const Storage* storage, size_t begin, size_t end);
  FailurePtr check_inputs(const Call& call) const;
  void publish_memory();

  const uint32_t id_;
  const EngineOptions options_;
  const std::shared_ptr<Mailbox> mailbox_;
  const uint64_t open_request_;

  std::unordered_map<uint64_t, std::shared_ptr<Storage>> storages_;  // JavaScript thread, as the next three
  uint64_t last_storage_ = 0;
  std::unordered_map<uint64_t, std::shared_ptr<Program>> programs_;
  uint64_t last_program_ = 0;
  // Calls are large and made by the thousand a second: memory that one thread takes and another gives back is slow.
  std::vector<std::unique_ptr<Call>> spare_calls_;  // JavaScript thread

  const grpo_backend* backend_ = nullptr;  // engine's thread, as the next six
  grpo_context* context_ = nullptr;
  std::unordered_set<Storage*> allocated_;
  std::unordered_set<Program*> with_graph_;
  std::vector<QueuedCollective> in_flight_;  // in the order in which they end
  std::vector<std::unique_ptr<Job>> batch_;  // jobs taken from the queue
  std::vector<std::unique_ptr<Call>> done_;  // calls that have run
  FailurePtr lost_;                          // set once the device can no longer be used

  std::atomic<uint64_t> live_bytes_{0}, reserved_bytes_{0}, peak_bytes_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Job>> queue_;        // under the mutex, as the next
  std::vector<std::unique_ptr<Call>> used_calls_;  // on their way back to the JavaScript thread
  std::atomic<bool> stop_{false};
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace grpo_native
