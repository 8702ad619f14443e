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
constexpr int kSpinsBeforeYield = 400;
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
  state_.store((state_.load(std::memory_order_relaxed) & ~(kOpen | kInside)) + kLoop + kOpen);
  // Sequentially consistent, as in sleep(): a worker either sees the new loop or is counted here.
  if (sleepers_.load() > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  drain(0);
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spin = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spin) {
    if (spin < kSpinsBeforeYield) {
      GRPO_PAUSE();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::drain(int worker) {
  for (;;) {
    const int64_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
    if (begin >= count_) return;
    body_(closure_, begin, std::min(begin + piece_, count_), worker);
  }
}

// Enters the loop in progress if it is a new one and still open.
bool ThreadPool::join(uint64_t* seen) {
  uint64_t state = state_.load(std::memory_order_acquire);
  while (state / kLoop != *seen && (state & kOpen)) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
      *seen = state / kLoop;
      return true;
    }
  }
  return false;
}

void ThreadPool::sleep(uint64_t seen) {
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleepers_;
  wake_.wait(lock, [&] {
    const uint64_t state = state_.load();
    return stop_ || (state / kLoop != seen && (state & kOpen));
  });
  --sleepers_;
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (!stop_) {
    bool inside = join(&seen);
    for (int spin = 0; spin < kSpins && !inside && !stop_; ++spin) {
      GRPO_PAUSE();
      inside = join(&seen);
    }
    if (inside) {
      drain(worker);
      state_.fetch_sub(1, std::memory_order_release);
    } else {
      sleep(seen);
    }
  }
}

}  // namespace grpo
