// The one way to start a kernel.
#pragma once

#include "context.h"
#include "storage.h"

namespace grpo_cuda {

struct Launch {
  dim3 grid, block;
  size_t shared = 0;     // bytes of dynamic shared memory
  unsigned cluster = 1;  // adjacent blocks that run together; a divisor of grid.x
};

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A launch as the runtime takes it. `cluster` has to stay as long as it.
inline cudaLaunchConfig_t launch_config(grpo_context& context, const Launch& how, cudaLaunchAttribute* cluster) {
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared;
  config.stream = context.stream();
  if (how.cluster > 1) {
    cluster->id = cudaLaunchAttributeClusterDimension;
    cluster->val.clusterDim.x = how.cluster;
    cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
    config.attrs = cluster;
    config.numAttrs = 1;
  }
  return config;
}

// The most bytes of shared variables that a kernel has; the build checks it.
constexpr size_t kSharedVariables = 2048;

// A block gets 48 KiB unasked, shared variables included. Asked for at each launch: a call of a few hundred
// nanoseconds, and nothing to keep.
template <class... Parameters>
cudaError_t allow_shared(void (*kernel)(Parameters...), size_t bytes) {
  if (bytes + kSharedVariables <= (48u << 10)) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// Whether the device, or the part of it that this process may use, can hold all blocks of a cluster at once.
template <class... Parameters>
bool cluster_fits(grpo_context& context, void (*kernel)(Parameters...), const Launch& how) {
  if (how.cluster == 1) return true;
  cudaLaunchAttribute cluster = {};
  const cudaLaunchConfig_t config = launch_config(context, how, &cluster);
  int clusters = 0;
  cudaError_t error = allow_shared(kernel, how.shared);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess && clusters > 0;
}

// Queues kernel(arguments...) on the context's stream.
template <class... Parameters, class... Arguments>
grpo_status launch(grpo_context& context, void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  cudaLaunchAttribute cluster = {};
  const cudaLaunchConfig_t config = launch_config(context, how, &cluster);
  if (const cudaError_t error = allow_shared(kernel, how.shared))
    return context.fail_with(error, "cudaFuncSetAttribute");
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  return error == cudaSuccess ? GRPO_OK : context.fail_with(error, "a kernel's launch");
}

// ---- elementwise kernels --------------------------------------------------------------------------------------------

// Whether rows (or parts of rows) of `columns` elements can be read and written n adjacent ones at a time.
template <class... Tensors>
bool fits_accesses(int n, int64_t columns, const Tensors&... tensors) {
  return columns % n == 0 && (is_aligned_for(tensors, n) && ...);
}

// Blocks of a body that a multiprocessor has registers for.
template <class Body>
constexpr int kElementBlocks = 4;

template <int N, class Body>
__global__ void __launch_bounds__(256, kElementBlocks<Body>) elements_kernel(int64_t rows, int64_t columns, Body body) {
  const int64_t column = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (column >= columns) return;
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < rows; row += int64_t{gridDim.y} * blockDim.y)
    body.template at<N>(row, column);
}

// body.at<N>(row, column) for every N adjacent elements of rows x columns: 8 where a tensor has 16 bits an element and
// all allow such accesses (tensors.. are those that `body` reads and writes; their rows are `columns` long), else 4
// or 1. `kMost` is 4 for a body that has no registers for 8.
template <int kMost = 8, class Body, class... Tensors>
grpo_status for_elements(grpo_context& context, int64_t rows, int64_t columns, const Body& body,
                         const Tensors&... tensors) {
  if (rows == 0 || columns == 0) return GRPO_OK;
  const auto fits = [&](int n) { return fits_accesses(n, columns, tensors...); };
  const int n = kMost == 8 && ((element_bytes(tensors) == 2) || ...) && fits(8) ? 8 : fits(4) ? 4 : 1;
  const int64_t across = columns / n;
  unsigned width = kWarp;
  while (width < 256 && width < across) width *= 2;
  const unsigned height = 256 / width;
  const dim3 grid(static_cast<unsigned>(ceil_divide(across, width)),
                  static_cast<unsigned>(std::min<int64_t>(ceil_divide(rows, height), 65535)));
  return launch(context,
                n == 8   ? elements_kernel<kMost, Body>
                : n == 4 ? elements_kernel<4, Body>
                         : elements_kernel<1, Body>,
                {grid, dim3(width, height)}, rows, columns, body);
}

}  // namespace grpo_cuda
