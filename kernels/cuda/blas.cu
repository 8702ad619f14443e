#include <dlfcn.h>

#include <cstdlib>

#include "blas.h"

namespace grpo_cuda {

// The functions of cuBLAS that are used, with its names' types and values (CUDA documentation, cuBLAS library).
struct Blas::Functions {
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*set_stream)(void* handle, cudaStream_t stream);
  int (*set_workspace)(void* handle, void* workspace, size_t bytes);
  int (*get_version)(void* handle, int* version);
  int (*set_math_mode)(void* handle, int mode);
  int (*gemm)(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a,
              int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
              int compute_type, int algorithm);
};

namespace {

constexpr int kNotTransposed = 0, kTransposed = 1;  // cublasOperation_t
constexpr int kCompute32F = 68;                     // cublasComputeType_t: CUBLAS_COMPUTE_32F, no TF32
constexpr int kDefaultAlgorithm = -1;               // cublasGemmAlgo_t
// cublasMath_t: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION. Without it the parts of a sum may be added up in 16
// bits where the result has as many.
constexpr int kSumIn32F = 16;
// Given to cuBLAS so that products of a stream use the same memory, and give the same bits, each time: NVIDIA's advice
// for sm_90, and enough for the others.
constexpr size_t kWorkspaceBytes = 32u << 20;

int data_type(int dtype) {  // cudaDataType
  return dtype == GRPO_F32 ? 0 : dtype == GRPO_F16 ? 2 : 14;
}

template <class F>
bool find(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

Blas::Blas(cudaStream_t stream) : stream_(stream) {
  const char* chosen = std::getenv("GRPO_CUBLAS_LIBRARY");
  const bool is_chosen = chosen && *chosen;
  const char* const usual[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"};
  std::string tried;
  void* library = nullptr;
  std::string name;
  for (const char* candidate : usual) {
    name = is_chosen ? chosen : candidate;
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library) break;
    tried += (tried.empty() ? "" : ", ") + name;
    if (is_chosen) break;
  }
  if (!library) {
    description_ = "none: cuBLAS was not found (tried " + tried +
                   "); install the CUDA toolkit's libcublas, or set GRPO_CUBLAS_LIBRARY to its path";
    return;
  }
  Functions functions;
  if (!find(library, "cublasCreate_v2", functions.create) || !find(library, "cublasDestroy_v2", functions.destroy) ||
      !find(library, "cublasSetStream_v2", functions.set_stream) ||
      !find(library, "cublasSetWorkspace_v2", functions.set_workspace) ||
      !find(library, "cublasGetVersion_v2", functions.get_version) ||
      !find(library, "cublasSetMathMode", functions.set_math_mode) || !find(library, "cublasGemmEx", functions.gemm)) {
    description_ = "none: " + name + " lacks a function of cuBLAS 11 or later";
    return;
  }
  if (const int status = functions.create(&handle_)) {
    handle_ = nullptr;
    description_ = "none: cublasCreate of " + name + " failed with status " + std::to_string(status);
    return;
  }
  if (const int status = functions.set_math_mode(handle_, kSumIn32F)) {
    functions.destroy(handle_);
    handle_ = nullptr;
    description_ = "none: " + name + " cannot keep sums in float32: cublasSetMathMode failed with status " +
                   std::to_string(status);
    return;
  }
  functions_ = std::make_unique<const Functions>(functions);
  functions_->set_stream(handle_, stream_);
  // After the stream, whose setting takes away a workspace.
  if (cudaMallocAsync(&workspace_, kWorkspaceBytes, stream_) != cudaSuccess) {
    cudaGetLastError();
    workspace_ = nullptr;
  } else if (functions_->set_workspace(handle_, workspace_, kWorkspaceBytes)) {
    cudaFreeAsync(workspace_, stream_);
    workspace_ = nullptr;
  }
  int version = 0;
  functions_->get_version(handle_, &version);
  description_ =
      "cuBLAS " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + " (" + name + ")";
}

Blas::~Blas() {
  if (handle_) functions_->destroy(handle_);
  if (workspace_) cudaFreeAsync(workspace_, stream_);
}

int Blas::product(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b,
                  const Matrix& out, bool accumulate) const {
  const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  // cuBLAS counts columns first, so that it is given the transposed product: out^T = op(b)^T op(a)^T.
  return functions_->gemm(handle_, transpose_b ? kTransposed : kNotTransposed,
                          transpose_a ? kTransposed : kNotTransposed, static_cast<int>(n), static_cast<int>(m),
                          static_cast<int>(k), &one, b.data, data_type(b.dtype), static_cast<int>(b.stride), a.data,
                          data_type(a.dtype), static_cast<int>(a.stride), &beta, out.data, data_type(out.dtype),
                          static_cast<int>(out.stride), kCompute32F, kDefaultAlgorithm);
}

}  // namespace grpo_cuda
