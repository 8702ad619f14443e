#include "blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace grpo {

namespace {

using Sgemm = void (*)(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda,
                       const float* b, int ldb, float beta, float* c, int ldc);
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

const Blas* load() {
  const char* names[] = {std::getenv("GRPO_OPENBLAS_PATH"), "libopenblas.so.0", "libopenblas.so", "libopenblas.dylib",
                         "/opt/homebrew/opt/openblas/lib/libopenblas.dylib"};
  for (const char* name : names) {
    if (!name || !*name) continue;
    void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) continue;
    void* sgemm = dlsym(handle, "cblas_sgemm");
    auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(handle, "openblas_set_num_threads"));
    auto config = reinterpret_cast<char* (*)()>(dlsym(handle, "openblas_get_config"));
    auto core = reinterpret_cast<char* (*)()>(dlsym(handle, "openblas_get_corename"));
    if (!sgemm || !set_threads) continue;
    set_threads(1);
    Blas* blas = new Blas;  // lives as long as the process
    blas->library = name;
    blas->config = config ? config() : "";
    blas->core = core ? core() : "";
    blas->function = sgemm;
    return blas;
  }
  return nullptr;
}

}  // namespace

bool Blas::is_without_avx2() const {
  static const char* const cores[] = {"Katmai",  "Coppermine", "Northwood",    "Prescott", "Banias",     "Atom",
                                      "Core2",   "Penryn",     "Dunnington",   "Nehalem",  "Nano",       "Athlon",
                                      "Opteron", "Barcelona",  "Opteron_SSE3", "Bobcat",   "Sandybridge"};
  return std::find(std::begin(cores), std::end(cores), core) != std::end(cores);
}

void Blas::sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc) const {
  reinterpret_cast<Sgemm>(function)(kRowMajor, transpose_a ? kTrans : kNoTrans, transpose_b ? kTrans : kNoTrans,
                                    static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), 1.0f, a,
                                    static_cast<int>(lda), b, static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

const Blas* find_blas() {
  static const Blas* blas = load();
  return blas;
}

}  // namespace grpo
