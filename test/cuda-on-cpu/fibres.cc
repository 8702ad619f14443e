// Runs the threads of blocks as fibres (cuda_runtime.h says how it differs from CUDA).

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

namespace {

constexpr size_t kStackBytes = 256 << 10;
// Bytes of a number that is of a usual size, and wrong: 48.5 in bf16, 48.6 in float32, 3.1 in f16.
constexpr int kWrongByte = 0x42;

struct Barrier {
  unsigned expected = 0, arrived = 0;
  std::vector<struct Fibre*> waiting{};
};

struct Warp {
  Barrier barrier;
  // Two, since a lane may be at the next exchange before another has read this one.
  alignas(16) unsigned char values[2][32 * kLaneBytes];
};

// In which order threads that are ready run. The first two let warps go on side by side; in the last, one runs ahead of
// the others until it waits for them, or for no reason at all lets them by.
enum class Order { kForward, kReverse, kDrift };

struct Block {
  dim3 index;
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* shared;  // dynamic, in `memory`
  size_t shared_bytes;
  std::vector<unsigned char> variables;  // the shared variables, while another block of the cluster runs
  std::deque<struct Fibre*> ready;
  std::vector<struct Fibre*> at_cluster_barrier;
  unsigned alive = 0;
  bool started = false;
  Order order = Order::kForward;
};

// Of 16 bytes, of which `from` gives `bytes`.
struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};

struct Fibre {
  void* stack = nullptr;
  void* stack_pointer = nullptr;
#ifndef __x86_64__
  ucontext_t context;
#endif
  dim3 thread;
  unsigned number = 0;  // in its block
  unsigned exchanges = 0;
  unsigned cluster_phase = 0;  // in which it arrived at the cluster's barrier
  std::vector<Copy> copies{};  // that it has not waited for
};

// One launch at a time in a process: it has one set of shared variables a thread.
std::mutex launching;

std::vector<std::unique_ptr<Fibre>> fibres;  // kept for the next launch, with their stacks
Fibre* current = nullptr;
std::vector<Block> cluster;
Block* running = nullptr;
struct {
  unsigned expected, arrived, phase;
} cluster_barrier;
void (*kernel_body)(void*) = nullptr;
void* kernel_argument = nullptr;

// What the order of threads and the bytes that nobody wrote follow from. Other runs: GRPO_CUDA_ON_CPU_SEED.
uint64_t launches = [] {
  const char* seed = std::getenv("GRPO_CUDA_ON_CPU_SEED");
  return seed ? std::strtoull(seed, nullptr, 10) : 0;
}();
uint64_t drawn = 0;
// splitmix64.
uint64_t draw() {
  uint64_t x = drawn += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

void finish_fibre();

// ---- switching ----

#ifdef __x86_64__
void* scheduler_pointer = nullptr;

// Saves what a call must preserve, exchanges the stacks and goes on there.
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.text
.local cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

void prepare(Fibre& fibre) {
  // Six registers, where to begin, and a word that aligns the stack as a call would.
  auto** top = reinterpret_cast<void**>(static_cast<char*>(fibre.stack) + kStackBytes) - 8;
  std::memset(top, 0, 8 * sizeof *top);
  top[6] = reinterpret_cast<void*>(finish_fibre);
  fibre.stack_pointer = top;
}
void to_fibre(Fibre& fibre) { cuda_on_cpu_switch(&scheduler_pointer, fibre.stack_pointer); }
void to_scheduler(Fibre& fibre) { cuda_on_cpu_switch(&fibre.stack_pointer, scheduler_pointer); }
#else
ucontext_t scheduler_context;

void prepare(Fibre& fibre) {
  getcontext(&fibre.context);
  fibre.context.uc_stack = {};
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fibre.context, finish_fibre, 0);
}
void to_fibre(Fibre& fibre) { swapcontext(&scheduler_context, &fibre.context); }
void to_scheduler(Fibre& fibre) { swapcontext(&fibre.context, &scheduler_context); }
#endif

void make_ready(Block& block, std::vector<Fibre*>& fibres) {
  const size_t count = fibres.size();
  if (block.order == Order::kDrift) {
    // Those of one warp run next, those of several warp by warp, in any order of warps.
    const auto key = [salt = draw() | 1](const Fibre* fibre) { return (fibre->number / 32 + 1) * salt; };
    if (count >= 32)
      std::stable_sort(fibres.begin(), fibres.end(), [&](Fibre* x, Fibre* y) { return key(x) < key(y); });
    const bool next = count < 32 && draw() % 16 != 0;
    block.ready.insert(next ? block.ready.begin() : block.ready.end(), fibres.begin(), fibres.end());
  } else {
    for (size_t i = 0; i < count; ++i)
      block.ready.push_back(fibres[block.order == Order::kForward ? i : count - 1 - i]);
  }
  fibres.clear();
}

void wait_at(Barrier& barrier) {
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    make_ready(*running, barrier.waiting);
    return;
  }
  barrier.waiting.push_back(current);
  to_scheduler(*current);
}

void open_cluster_barrier_if_all_arrived() {
  if (cluster_barrier.arrived < cluster_barrier.expected) return;
  cluster_barrier.arrived = 0;
  ++cluster_barrier.phase;
  for (Block& block : cluster) make_ready(block, block.at_cluster_barrier);
}

// What a fibre runs: the kernel, then back for good.
void finish_fibre() {
  kernel_body(kernel_argument);
  if (!current->copies.empty()) give_up("a thread has ended before its asynchronous copies");
  --running->alive;
  --cluster_barrier.expected;  // it waits for those that have not ended
  if (cluster_barrier.arrived > 0) open_cluster_barrier_if_all_arrived();
  to_scheduler(*current);
  std::abort();
}

Fibre& fibre_at(size_t i) {
  while (fibres.size() <= i) {
    auto fibre = std::make_unique<Fibre>();
    fibre->stack =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fibre->stack == MAP_FAILED) give_up("no memory for a stack");
    fibres.push_back(std::move(fibre));
  }
  return *fibres[i];
}

// The thread-local memory of this library, where shared variables are.
struct Variables {
  unsigned char* data = nullptr;
  size_t bytes = 0;
};
thread_local char among_variables;

Variables shared_variables() {
  Variables found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          auto* data = static_cast<unsigned char*>(info->dlpi_tls_data);
          const size_t bytes = info->dlpi_phdr[i].p_memsz;
          const auto* inside = reinterpret_cast<unsigned char*>(&among_variables);
          if (info->dlpi_phdr[i].p_type != PT_TLS || !data || inside < data || inside >= data + bytes) continue;
          *static_cast<Variables*>(out) = {data, bytes};
          return 1;
        }
        return 0;
      },
      &found);
  if (!found.data) give_up("the shared variables were not found");
  return found;
}

// Until all its threads wait or have ended.
void run_block(Block& block, const Variables& variables) {
  running = &block;
  blockIdx = block.index;
  block.started = true;
  if (!block.variables.empty()) std::memcpy(variables.data, block.variables.data(), variables.bytes);
  while (!block.ready.empty()) {
    current = block.ready.front();
    block.ready.pop_front();
    threadIdx = current->thread;
    to_fibre(*current);
  }
  if (!block.variables.empty()) std::memcpy(block.variables.data(), variables.data, variables.bytes);
}

void run_cluster(const Variables& variables) {
  for (bool some = true; some;) {
    some = false;
    for (size_t i = 0; i < cluster.size(); ++i) {
      Block& block = cluster[launches % 2 ? i : cluster.size() - 1 - i];
      if (block.ready.empty()) continue;
      run_block(block, variables);
      some = true;
    }
  }
  for (Block& block : cluster) {
    if (block.alive > 0) give_up("threads wait for others that have ended or wait elsewhere");
  }
}

}  // namespace

unsigned char* dynamic_shared() { return running->shared; }

void give_up(const char* message) {
  std::fprintf(stderr, "cuda-on-cpu: %s (block %u,%u,%u thread %u,%u,%u)\n", message, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) give_up("warp operations take all 32 lanes");
}

const unsigned char* exchange(const void* value, size_t bytes) {
  Warp& warp = running->warps[current->number / 32];
  unsigned char* values = warp.values[current->exchanges++ % 2];
  std::memcpy(values + kLaneBytes * (current->number % 32), value, bytes);
  wait_at(warp.barrier);
  return values;
}

void copy_async(void* to, const void* from, unsigned from_bytes) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0 || from_bytes > 16) {
    give_up("cp.async takes up to 16 bytes at multiples of 16");
  }
  std::memset(to, kWrongByte, 16);
  current->copies.push_back({to, from, from_bytes});
}

void wait_for_copies() {
  for (const Copy& copy : current->copies) {
    std::memset(copy.to, 0, 16);
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
  current->copies.clear();
}

void run(dim3 grid, dim3 block, unsigned cluster_size, size_t shared, void (*body)(void*), void* argument) {
  const std::lock_guard lock(launching);
  drawn = ++launches << 32;
  const unsigned threads = block.x * block.y * block.z;
  gridDim = grid;
  blockDim = block;
  kernel_body = body;
  kernel_argument = argument;
  const Variables variables = cluster_size > 1 ? shared_variables() : Variables{};
  cluster.resize(cluster_size);
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t first = 0; first < blocks; first += cluster_size) {
    cluster_barrier = {threads * cluster_size, 0, 0};
    for (unsigned rank = 0; rank < cluster_size; ++rank) {
      const uint64_t index = first + rank;
      Block& b = cluster[rank];
      b.index = dim3(unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y));
      b.order = static_cast<Order>((launches + index) % 3);
      b.barrier.expected = b.alive = threads;
      b.started = false;
      b.warps.assign((threads + 31) / 32, Warp{{32}, {}});
      // Never zero at first: NaN, or numbers, since a kernel may mend results that are not finite.
      b.memory.reset(new unsigned char[shared + 128]);
      b.shared = b.memory.get() + (128 - reinterpret_cast<uintptr_t>(b.memory.get()) % 128);
      b.shared_bytes = shared;
      std::memset(b.shared, (launches + index) % 2 ? 0xff : kWrongByte, shared);
      b.variables.assign(variables.data, variables.data + variables.bytes);
      std::vector<Fibre*> order;
      for (unsigned i = 0; i < threads; ++i) {
        Fibre& fibre = fibre_at(rank * threads + i);
        fibre.number = i;
        fibre.thread = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
        fibre.exchanges = 0;
        prepare(fibre);
        order.push_back(&fibre);
      }
      make_ready(b, order);
    }
    run_cluster(variables);
  }
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

void __syncthreads() { wait_at(running->barrier); }

unsigned __clusterSizeInBlocks() { return static_cast<unsigned>(cluster.size()); }
unsigned __clusterRelativeBlockRank() { return static_cast<unsigned>(running - cluster.data()); }

void __cluster_barrier_arrive() {
  current->cluster_phase = cluster_barrier.phase;
  ++cluster_barrier.arrived;
  open_cluster_barrier_if_all_arrived();
}
void __cluster_barrier_wait() {
  if (cluster_barrier.phase != current->cluster_phase) return;
  running->at_cluster_barrier.push_back(current);
  to_scheduler(*current);
}

void* __cluster_map_shared_rank(const void* shared, unsigned rank) {
  if (rank >= cluster.size()) give_up("shared memory of a block that the cluster does not have");
  auto* own = static_cast<unsigned char*>(const_cast<void*>(shared));
  Block& other = cluster[rank];
  if (&other == running) return own;
  if (!other.started || other.alive == 0) give_up("shared memory of a block that does not run");
  if (own >= running->shared && own < running->shared + running->shared_bytes)
    return other.shared + (own - running->shared);
  const Variables variables = shared_variables();
  if (own < variables.data || own >= variables.data + variables.bytes) give_up("no shared memory");
  return other.variables.data() + (own - variables.data);
}
