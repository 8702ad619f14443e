// Runs the threads of blocks as fibres (cuda_runtime.h says how it differs from CUDA).

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"
#include "tensor_cores_on_cpu.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

namespace {

constexpr size_t kStackBytes = 256 << 10;

struct Barrier {
  unsigned expected = 0, arrived = 0;
  std::vector<struct Fibre*> waiting{};
};

struct Warp {
  Barrier barrier;
  // Two, since a lane may be at the next exchange before another has read this one.
  alignas(16) unsigned char values[2][32 * kLaneBytes];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* shared;
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
  std::vector<Copy> copies{};
};

// One launch at a time in a process: shared variables are static.
std::mutex launching;

std::vector<std::unique_ptr<Fibre>> fibres;  // kept for the next launch, with their stacks
std::deque<Fibre*> ready;
Fibre* current = nullptr;
Block running;
unsigned alive = 0;
void (*kernel_body)(void*) = nullptr;
void* kernel_argument = nullptr;

unsigned launches = 0;
bool reverse = false;  // the order of threads that are ready

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

void make_ready(std::vector<Fibre*>& fibres) {
  if (reverse) {
    for (size_t i = fibres.size(); i-- > 0;) ready.push_back(fibres[i]);
  } else {
    for (Fibre* fibre : fibres) ready.push_back(fibre);
  }
  fibres.clear();
}

void wait_at(Barrier& barrier) {
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    make_ready(barrier.waiting);
    return;
  }
  barrier.waiting.push_back(current);
  to_scheduler(*current);
}

// What a fibre runs: the kernel, then back for good.
void finish_fibre() {
  kernel_body(kernel_argument);
  if (!current->copies.empty()) give_up("a thread has ended before its asynchronous copies");
  --alive;
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

void run_block() {
  while (!ready.empty()) {
    current = ready.front();
    ready.pop_front();
    threadIdx = current->thread;
    to_fibre(*current);
  }
  if (alive > 0) give_up("threads wait for others that have ended or wait elsewhere");
}

}  // namespace

unsigned char* dynamic_shared() { return running.shared; }
std::vector<Copy>& copies_in_flight() { return current->copies; }

void give_up(const char* message) {
  std::fprintf(stderr, "cuda-on-cpu: %s (block %u,%u,%u thread %u,%u,%u)\n", message, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) give_up("warp operations take all 32 lanes");
}

const unsigned char* exchange(const void* value, size_t bytes) {
  Warp& warp = running.warps[current->number / 32];
  unsigned char* values = warp.values[current->exchanges++ % 2];
  std::memcpy(values + kLaneBytes * (current->number % 32), value, bytes);
  wait_at(warp.barrier);
  return values;
}

void run(dim3 grid, dim3 block, size_t shared, void (*body)(void*), void* argument) {
  const std::lock_guard lock(launching);
  ++launches;
  const unsigned threads = block.x * block.y * block.z;
  gridDim = grid;
  blockDim = block;
  kernel_body = body;
  kernel_argument = argument;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  for (uint64_t index = 0; index < blocks; ++index) {
    blockIdx = dim3(unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y));
    reverse = (launches + index) % 2 == 0;
    running.barrier = {threads};
    running.warps.assign((threads + 31) / 32, Warp{{32}, {}});
    // Never zero at first.
    running.memory.reset(new unsigned char[shared + 128]);
    running.shared = running.memory.get() + (128 - reinterpret_cast<uintptr_t>(running.memory.get()) % 128);
    std::memset(running.shared, 0xff, shared);
    alive = threads;
    std::vector<Fibre*> order;
    for (unsigned i = 0; i < threads; ++i) {
      Fibre& fibre = fibre_at(i);
      fibre.number = i;
      fibre.thread = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
      fibre.exchanges = 0;
      prepare(fibre);
      order.push_back(&fibre);
    }
    make_ready(order);
    run_block();
  }
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

void __syncthreads() { wait_at(running.barrier); }
