// Capture of operations into a CUDA graph, and its launch.

#include "blas.h"
#include "context.h"

grpo_status grpo_context::begin_capture() {
  if (blas_->found() && !blas_->has_workspace()) {
    return fail(GRPO_UNSUPPORTED, "cuBLAS has no workspace of its own and would reserve memory");
  }
  const cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return fail_with(error, "cudaStreamBeginCapture");
  capture_ = std::make_unique<grpo_graph>();
  return GRPO_OK;
}

grpo_status grpo_context::end_capture(grpo_graph** graph) {
  const std::unique_ptr<grpo_graph> capture = std::move(capture_);
  cudaGraph_t captured = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream_, &captured);
  if (!graph) {
    if (captured) cudaGraphDestroy(captured);
    cudaGetLastError();
    return GRPO_OK;
  }
  if (error != cudaSuccess) return fail_with(error, "cudaStreamEndCapture");
  error = cudaGraphInstantiateWithFlags(&capture->executable, captured, 0);
  cudaGraphDestroy(captured);
  if (error != cudaSuccess) return fail_with(error, "cudaGraphInstantiate");
  capture->scratch_moves = scratch_moves_;
  *graph = new grpo_graph(*capture);
  return GRPO_OK;
}

grpo_status grpo_context::launch(const grpo_graph& graph) {
  if (graph.scratch_moves != scratch_moves_) return fail(GRPO_UNSUPPORTED, "scratch space has moved");
  const cudaError_t error = cudaGraphLaunch(graph.executable, stream_);
  if (error != cudaSuccess) return fail_with(error, "cudaGraphLaunch");
  for (const void* data : graph.integers) pool_.forget_copy(data);
  return GRPO_OK;
}

// It may still run.
void grpo_context::release(grpo_graph* graph) {
  if (!lost()) cudaStreamSynchronize(stream_);
  cudaGraphExecDestroy(graph->executable);
  delete graph;
}
