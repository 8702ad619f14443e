#include "thread_pool.h"

#include <algorithm>

#if defined(__x86_64__) || defined(__i386__)
#define GRPO_PAUSE() __builtin_ia32_pause()
#else
#define GRPO_PAUSE() std::this_thread::yield()
#endif

namespace grpo {

namespace {
// A decoder step is a chain of loops of some 10 microseconds each; sleeping between them would cost more than the
// loops.
constexpr int kSpins = 4000;
constexpr int kPiecesPerThread = 4;
}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t count, int64_t grain, Body body, const void* closure) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || count <= grain) {
    body(closure, 0, count, 0);
    return;
  }
  const int64_t even = (count + threads() * kPiecesPerThread - 1) / (threads() * kPiecesPerThread);
  count_ = count;
  piece_ = (std::max(even, grain) + grain - 1) / grain * grain;
  body_ = body;
  closure_ = closure;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  {
    // The lock pairs with the one around the workers' last check before they sleep, so none misses the wake-up.
    std::lock_guard<std::mutex> lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  drain(0);
  while (running_.load(std::memory_order_acquire) != 0) GRPO_PAUSE();
}

void ThreadPool::drain(int worker) {
  for (;;) {
    const int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
    if (begin >= count_) return;
    body_(closure_, begin, std::min(begin + piece_, count_), worker);
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) GRPO_PAUSE();
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_.load(std::memory_order_acquire) != seen; });
    }
    if (stop_) return;
    ++seen;
    drain(worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace grpo
