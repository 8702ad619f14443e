// CUDA's table of functions.

#include <cstdio>
#include <exception>

#include "operations.h"

namespace {

#include "../common/backend_table.h"

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

grpo_status create(int ordinal, const char* options, grpo_context** out, char* message, size_t message_size) try {
  *out = new grpo_context(ordinal, options ? options : "");
  return GRPO_OK;
} catch (const std::exception& error) {
  std::snprintf(message, message_size, "%s", error.what());
  return GRPO_INVALID_ARGUMENT;
}

void destroy(grpo_context* context) { delete context; }

grpo_status allocate(grpo_context* context, size_t bytes, void** data) {
  if (auto status = context->enter()) return status;
  const cudaError_t error = context->pool().allocate(bytes, data);
  if (error == cudaSuccess) return GRPO_OK;
  if (error != cudaErrorMemoryAllocation) return context->fail_with(error, "cudaMallocAsync");
  return context->fail(GRPO_OUT_OF_MEMORY, "%zu bytes were asked for; %llu are live", bytes,
                       static_cast<unsigned long long>(context->pool().memory().live_bytes));
}
void release(grpo_context* context, void* data) {
  if (context->enter() == GRPO_OK) context->pool().release(data);
}
grpo_status upload(grpo_context* context, void* device, const void* host, size_t bytes) {
  if (auto status = context->enter()) return status;
  return context->upload(device, host, bytes);
}
grpo_status download(grpo_context* context, void* host, const void* device, size_t bytes) {
  if (auto status = context->enter()) return status;
  return context->download(host, device, bytes);
}
grpo_status synchronize(grpo_context* context) {
  if (auto status = context->enter()) return status;
  return context->synchronize();
}
grpo_status wait_for_stream(grpo_context* context, void* stream) {
  if (auto status = context->enter()) return status;
  return context->order(static_cast<cudaStream_t>(stream), context->stream());
}
grpo_status let_stream_wait(grpo_context* context, void* stream) {
  if (auto status = context->enter()) return status;
  return context->order(context->stream(), static_cast<cudaStream_t>(stream));
}
void memory(grpo_context* context, grpo_memory* out) { *out = context->pool().memory(); }
grpo_status begin_capture(grpo_context* context) {
  if (auto status = context->enter()) return status;
  return context->begin_capture();
}
grpo_status end_capture(grpo_context* context, grpo_graph** graph) { return context->end_capture(graph); }
grpo_status launch_graph(grpo_context* context, grpo_graph* graph) {
  if (auto status = context->enter()) return status;
  return context->launch(*graph);
}
void release_graph(grpo_context* context, grpo_graph* graph) {
  context->enter();
  context->release(graph);
}

#define GRPO_DEFINE_OPERATION(op)                                             \
  grpo_status run_##op(grpo_context* context, const grpo_##op##_args* args) { \
    if (auto status = context->enter()) return status;                        \
    return grpo_cuda::op(*context, *args);                                    \
  }
GRPO_OPERATIONS(GRPO_DEFINE_OPERATION)

const grpo_backend kBackend = GRPO_BACKEND_TABLE("cuda");

}  // namespace

extern "C" __attribute__((visibility("default"))) const grpo_backend* grpo_cuda_backend(void) { return &kBackend; }
