// The one mechanism by which CPU kernels use several threads: a loop over an index range, split among a fixed set of
// threads. The calling thread works too, and waits only for threads that have taken a piece: one that the system has
// not scheduled in time is not missed. Kernels arrange their sums so that results do not depend on the split.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace grpo {

class ThreadPool {
 public:
  using Body = void (*)(const void* body, int64_t begin, int64_t end, int worker);

  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, worker) for consecutive pieces of [0, count), each a multiple of `grain` long but the last.
  // Returns when all are done. Not reentrant.
  void run(int64_t count, int64_t grain, Body body, const void* closure);

 private:
  void work(int worker);
  void drain(int worker);
  bool join(uint64_t* seen);
  void sleep(uint64_t seen);

  // One word says which loop it is, whether threads may still join it, and how many are in it.
  static constexpr uint64_t kInside = 0xffff, kOpen = 0x10000, kLoop = 0x20000;
  std::atomic<uint64_t> state_{0};

  // The loop in progress; written while it is not open and nobody is inside.
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  int64_t piece_ = 1;
  Body body_ = nullptr;
  const void* closure_ = nullptr;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;  // last: they start when all else is there
};

}  // namespace grpo
