// The CPU's table of functions: chooses the kernels for the processor and hands every call on to them.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <thread>

#include "../common/options.h"
#include "context.h"

using grpo::Kernels;

namespace {

#include "../common/backend_table.h"

// The best kernels that the processor has, or those asked for by name; nullptr when it has none of that name.
const Kernels* choose_kernels(const std::string& name) {
#if defined(__x86_64__) || defined(_M_X64)
  // Clang cannot be asked for f16c, which every processor with AVX2 and FMA has.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (name.empty() || name == "avx512")) return &grpo::kKernelsAvx512;
  if (avx2 && (name.empty() || name == "avx2")) return &grpo::kKernelsAvx2;
#endif
  return name.empty() || name == "baseline" ? &grpo::kKernelsBaseline : nullptr;
}

int device_count() { return 1; }

grpo_status create(int, const char* options_text, grpo_context** out, char* message, size_t message_size) try {
  const std::string options = options_text ? options_text : "";
  const auto refuse = [&](const std::string& text) {
    std::snprintf(message, message_size, "%s", text.c_str());
    return GRPO_INVALID_ARGUMENT;
  };
  const std::string isa = grpo_option(options, "isa"), matmul = grpo_option(options, "matmul");
  const Kernels* kernels = choose_kernels(isa);
  if (!kernels) return refuse("this processor has no kernels of the name isa=" + isa);
  if (!matmul.empty() && matmul != "openblas" && matmul != "builtin") {
    return refuse("expected openblas or builtin for matmul but received " + matmul);
  }
  const grpo::Blas* blas = matmul == "builtin" ? nullptr : grpo::find_blas();
  if (matmul == "openblas" && !blas) {
    return refuse("no OpenBLAS was found; install libopenblas0 or set GRPO_OPENBLAS_PATH to the library");
  }
  std::string product = blas ? "openblas (" + blas->library + ", " + blas->config + ")" : "builtin";
  // Some five times slower than the kernel built in, where that has AVX2.
  if (blas && matmul.empty() && kernels != &grpo::kKernelsBaseline && blas->is_without_avx2()) {
    product = "builtin (" + blas->library + " would use its kernels for " + blas->core + " here, without AVX2)";
    blas = nullptr;
  }
  int threads = std::atoi(grpo_option(options, "threads").c_str());
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  auto* context = new grpo_context(threads, *kernels, blas);
  context->description =
      "isa=" + std::string(kernels->isa) + "\nthreads=" + std::to_string(threads) + "\nmatmul=" + product;
  *out = context;
  return GRPO_OK;
} catch (const std::exception& error) {
  std::snprintf(message, message_size, "%s", error.what());
  return GRPO_OUT_OF_MEMORY;
}

void destroy(grpo_context* context) { delete context; }

grpo_status allocate(grpo_context* context, size_t bytes, void** data) {
  *data = context->allocator.allocate(bytes);
  if (*data) return GRPO_OK;
  return context->fail(GRPO_OUT_OF_MEMORY, "%zu bytes were asked for; %llu are live", bytes,
                       static_cast<unsigned long long>(context->allocator.memory().live_bytes));
}
void release(grpo_context* context, void* data) { context->allocator.release(data); }
grpo_status upload(grpo_context*, void* device, const void* host, size_t bytes) {
  std::memcpy(device, host, bytes);
  return GRPO_OK;
}
grpo_status download(grpo_context*, void* host, const void* device, size_t bytes) {
  std::memcpy(host, device, bytes);
  return GRPO_OK;
}
grpo_status synchronize(grpo_context*) { return GRPO_OK; }
grpo_status wait_for_stream(grpo_context* context, void*) {
  return context->fail(GRPO_UNSUPPORTED, "the CPU has no streams");
}
grpo_status let_stream_wait(grpo_context* context, void* stream) { return wait_for_stream(context, stream); }
void memory(grpo_context* context, grpo_memory* out) { *out = context->allocator.memory(); }
grpo_status begin_capture(grpo_context* context) {
  return context->fail(GRPO_UNSUPPORTED, "the CPU has no graphs: its calls run one by one");
}
grpo_status end_capture(grpo_context* context, grpo_graph**) { return begin_capture(context); }
grpo_status launch_graph(grpo_context* context, grpo_graph*) { return begin_capture(context); }
void release_graph(grpo_context*, grpo_graph*) {}

// Scratch space is reserved inside the kernels and throws when there is none; no exception leaves the C API.
#define GRPO_DEFINE_OPERATION(op)                                                      \
  grpo_status run_##op(grpo_context* context, const grpo_##op##_args* args) try {      \
    return context->kernels.op(*context, *args);                                       \
  } catch (const std::bad_alloc&) {                                                    \
    return context->fail(GRPO_OUT_OF_MEMORY, #op ": no memory for its scratch space"); \
  }
GRPO_OPERATIONS(GRPO_DEFINE_OPERATION)

const grpo_backend kBackend = GRPO_BACKEND_TABLE("cpu");

}  // namespace

extern "C" const grpo_backend* grpo_cpu_backend(void) { return &kBackend; }
