// One process's part of a group of processes: a thread that runs the group's collectives in order, beside the engine
// that hands them over.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../mailbox.h"
#include "../storage.h"
#include "communicator.h"

namespace grpo_native {

struct GroupOptions {
  std::string engine;  // "gloo" or "nccl"
  CommunicatorOptions communicator;
  std::vector<std::string> libraries;  // where to look for the engine's library
};

// A collective between its call and its end.
struct Collective {
  CollectiveCall call{};
  // Under the group's mutex.
  bool done = false;
  FailurePtr failure;
};

struct GroupStatistics {
  uint64_t collectives = 0, bytes_sent = 0;
  double communication_seconds = 0, wait_seconds = 0;
};

class Group {
 public:
  // `request` is settled with this rank's address, or with the attempts to open the engine.
  Group(uint32_t id, GroupOptions options, std::shared_ptr<Mailbox> mailbox, uint64_t request);
  // Aborts what is in progress and waits for the thread. Not on the group's own thread.
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // JavaScript thread.
  void connect(std::vector<std::string> addresses, uint64_t request);
  uint64_t next_sequence() { return ++last_sequence_; }
  // After the collectives that were handed over.
  void close(uint64_t request);

  // Any thread.
  void abort(const std::string& reason);
  FailurePtr failure();
  GroupStatistics statistics();

  // Engine's thread. `input_failure`: the tensor to send has none of its values.
  void submit(std::shared_ptr<Collective> collective, FailurePtr input_failure);
  // Blocks until the collective has ended.
  FailurePtr wait(Collective& collective);

 private:
  void work();
  bool open();
  void enqueue(std::function<void()> job);
  void connect_now(const std::vector<std::string>& addresses, uint64_t request);
  void run(Collective& collective);
  void close_now(uint64_t request);
  FailurePtr fail(const CollectiveCall& call, const Outcome& outcome);
  FailurePtr describe(const char* name, uint64_t sequence, const std::string& size, const Outcome& outcome) const;

  const uint32_t id_;
  const GroupOptions options_;
  const std::shared_ptr<Mailbox> mailbox_;
  const uint64_t open_request_;
  uint64_t last_sequence_ = 0;  // JavaScript thread

  std::mutex mutex_;  // of all that follows
  std::condition_variable wake_, ended_;
  std::deque<std::function<void()>> jobs_;
  std::unique_ptr<Communicator> communicator_;  // set once, by the group's thread
  FailurePtr failure_;                          // set once: the group is dead
  const CollectiveCall* running_ = nullptr;
  GroupStatistics statistics_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace grpo_native
