// Capture of streams, and graphs: what is queued on a stream meanwhile is noted with the arguments it was called with,
// and a launch runs it in order. Waiting for the stream and reserving or freeing its memory end a capture with an
// error; CUDA would make nodes of the latter, which the library must not rely on.

#include <cstdlib>
#include <vector>

#include "cuda_runtime.h"

struct CudaOnCpuGraph {
  std::vector<std::function<void()>> nodes;
};

namespace cuda_on_cpu {

namespace {

// A thread captures one stream at a time, and no other thread uses that stream meanwhile.
thread_local struct {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  bool invalid = false;
} capture;

}  // namespace

bool is_captured(cudaStream_t stream) { return capture.graph && capture.stream == stream; }

cudaError_t submit(Count call, cudaStream_t stream, std::function<void()> work) {
  count(call);
  if (!is_captured(stream)) return finish_copies(stream), work(), cudaSuccess;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  capture.graph->nodes.push_back(std::move(work));
  return cudaSuccess;
}

cudaError_t end_of_capture(cudaStream_t stream) {
  if (!is_captured(stream)) return cudaSuccess;
  capture.invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream) return cudaErrorStreamCaptureUnsupported;  // the default stream
  if (capture.graph) return cudaErrorInvalidValue;
  capture = {stream, new CudaOnCpuGraph, false};
  return cudaSuccess;
}

// GRPO_CUDA_ON_CPU_CAPTURES: somebody else captures every stream.
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = is_captured(stream) || std::getenv("GRPO_CUDA_ON_CPU_CAPTURES") ? cudaStreamCaptureStatusActive
                                                                            : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!is_captured(stream)) return cudaErrorInvalidValue;
  const bool invalid = capture.invalid;
  if (invalid) {
    delete capture.graph;
  } else {
    *graph = capture.graph;
  }
  capture = {};
  return invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  count(kLiveGraphs);
  return *executable = new CudaOnCpuGraph(*graph), cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (const cudaError_t error = end_of_capture(stream)) return error;
  count(kGraphLaunches);
  finish_copies(stream);
  for (const auto& node : executable->nodes) node();
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  count(kLiveGraphs, -1);
  return delete executable, cudaSuccess;
}
