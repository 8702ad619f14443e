// sample: a block takes a row.
//
// A token is drawn by inverting the cumulative distribution at one random number: weights exp(z - max) are summed in
// float64 in the order of ids, and the first id whose running sum exceeds u * total is taken. Filters set weights to 0:
//   topK  keeps the topK largest logits,
//   topP  of those, the fewest largest whose probabilities reach topP,
//   minP  of those, the ones with at least minP times the largest probability.
// Tokens that tie with the last one kept are kept too, so that no filter depends on the order of ids.

#include "operations.h"
#include "row_softmax.h"
// clang-format off
#include "../common/ordered_bits.h"
#include "../common/philox.h"
// clang-format on

namespace grpo_cuda {

namespace {

constexpr int kBins = 1 << 11;
constexpr int kPerThread = 8;
constexpr int64_t kChunk = kPerThread * kRowThreads;  // weights whose sum is kept while a token is looked for
// Masses are added up as whole numbers, in any order: of weights of at most 1, up to 2^18 fit.
constexpr double kMassUnit = 0x1p44;

struct SampleKernel {
  int64_t columns, stride;
  RowParts parts;
  bool aligned;
  const int32_t* keys;
  int64_t keys_stride;
  float inverse_temperature;
  bool greedy;
  int64_t top_k;  // 0: all
  double top_p, min_p;
  int32_t* ids;
  float* log_probs;
};

// The weight of a logit: 0 for NaN, and for those whose key is below `lowest` or whose weight is below `least`. With a
// logit of +inf only such tokens have a weight.
struct Weights {
  float max, inverse_temperature;
  uint32_t lowest;
  float least;

  __device__ __forceinline__ float operator()(float logit) const {
    if (ordered_key(logit) < lowest) return 0.0f;
    float weight;
    if (fabsf(max) == INFINITY) {
      weight = max > 0.0f && logit == max ? 1.0f : 0.0f;
    } else {
      weight = row_power(row_exponent(logit, max, inverse_temperature * kLog2e));
    }
    return weight >= least ? weight : 0.0f;  // NaN is not
  }
};

struct Largest {
  float logit;
  int32_t id;
};
struct JoinLargest {
  __device__ __forceinline__ Largest operator()(const Largest& a, const Largest& b) const {
    const bool first = a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    return first ? a : b;
  }
};

// The largest logit with its lowest id. NaN is never the largest; a row of NaN gives token 0.
template <class T>
__device__ Largest find_largest(const T* row, int64_t columns) {
  Largest most = {-INFINITY, INT32_MAX};
  for (int64_t i = threadIdx.x; i < columns; i += kRowThreads) {
    const float logit = to_float(row[i]);
    if (logit > most.logit || (logit == most.logit && i < most.id)) most = {logit, static_cast<int32_t>(i)};
  }
  most = block_reduce<kRowThreads>(most, JoinLargest{});
  if (most.id == INT32_MAX) most.id = 0;
  return most;
}

// The largest key such that the tokens with at least that key have a mass of `target` whole units, or, with `share`, of
// that share of the whole. Found digit by digit from the top, with a histogram of masses each.
template <class T, class Mass>
__device__ uint32_t key_reaching(const T* row, int64_t columns, unsigned long long target, double share,
                                 unsigned long long* histogram, const Mass& mass) {
  __shared__ uint32_t prefix;
  __shared__ unsigned long long above, wanted;
  if (threadIdx.x == 0) {
    prefix = 0;
    above = 0;
    wanted = target;
  }
  constexpr int kShifts[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = kShifts[digit], bins = 1 << kBits[digit];
    __syncthreads();
    for (int bin = threadIdx.x; bin < bins; bin += kRowThreads) histogram[bin] = 0;
    __syncthreads();
    const uint32_t chosen_so_far = prefix;
    for (int64_t i = threadIdx.x; i < columns; i += kRowThreads) {
      const float logit = to_float(row[i]);
      const uint32_t key = ordered_key(logit);
      if (digit > 0 && key >> kShifts[digit - 1] != chosen_so_far) continue;
      const unsigned long long units = mass(logit);
      if (units) atomicAdd(&histogram[key >> shift & (bins - 1)], units);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      if (digit == 0 && share >= 0.0) {
        unsigned long long total = 0;
        for (int bin = 0; bin < bins; ++bin) total += histogram[bin];
        wanted = static_cast<unsigned long long>(ceil(share * static_cast<double>(total)));
      }
      int chosen = 0;
      for (int bin = bins - 1; bin >= 0; --bin) {
        if (histogram[bin] == 0) continue;
        chosen = bin;  // the lowest bin with mass, should the sum stay below
        if (above + histogram[bin] >= wanted) break;
        above += histogram[bin];
      }
      prefix = chosen_so_far << kBits[digit] | static_cast<uint32_t>(chosen);
    }
  }
  __syncthreads();
  return prefix;
}

// The token at share `uniform` of the weights, 0 when all weights are 0. `sums` has room for a number a chunk.
template <class T>
__device__ int64_t draw(const T* row, int64_t columns, const Weights& weights, double uniform, double* sums) {
  __shared__ double parts[kRowThreads];
  __shared__ double base_of_chunk, target;
  __shared__ int64_t found;
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const auto own_sum = [&](int64_t chunk) {
    double sum = 0.0;
    const int64_t first = chunk * kChunk + int64_t{threadIdx.x} * kPerThread;
    for (int64_t i = first; i < min(first + kPerThread, columns); ++i) sum += weights(to_float(row[i]));
    return sum;
  };
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const double sum = block_reduce<kRowThreads, Sum>(own_sum(chunk));
    if (threadIdx.x == 0) sums[chunk] = sum;
  }
  __syncthreads();
  // The first chunk whose end lies above the target, or the last with a weight should rounding keep all below.
  if (threadIdx.x == 0) {
    double total = 0.0, running = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk];
    target = uniform * total;
    found = 0;
    base_of_chunk = 0.0;
    for (int64_t chunk = 0; chunk < chunks && running <= target; ++chunk) {
      if (sums[chunk] == 0.0) continue;
      found = chunk;
      base_of_chunk = running;
      running += sums[chunk];
    }
  }
  __syncthreads();
  const int64_t chunk = found;
  parts[threadIdx.x] = own_sum(chunk);
  __syncthreads();
  if (threadIdx.x == 0) {
    double running = base_of_chunk, base = running;
    int64_t chosen = 0;
    for (int i = 0; i < kRowThreads && running <= target; ++i) {
      if (parts[i] == 0.0) continue;
      chosen = i;
      base = running;
      running += parts[i];
    }
    const int64_t first = chunk * kChunk + chosen * kPerThread;
    int64_t id = 0;
    running = base;
    for (int64_t i = first; i < min(first + kPerThread, columns) && running <= target; ++i) {
      const float weight = weights(to_float(row[i]));
      if (weight == 0.0f) continue;
      id = i;
      running += weight;
    }
    found = id;
  }
  __syncthreads();
  const int64_t id = found;
  __syncthreads();
  return id;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, 4) sample_kernel(const T* logits, SampleKernel k) {
  auto* histogram = dynamic_shared<unsigned long long>();
  auto* sums = reinterpret_cast<double*>(histogram + kBins);
  const int64_t at = blockIdx.x;
  const T* row = logits + at * k.stride;
  const Largest most = find_largest(row, k.columns);
  int64_t id = most.id;
  if (!k.greedy) {
    Weights weights = {most.logit, k.inverse_temperature, 0, 0.0f};
    if (k.top_k > 0 && k.top_k < k.columns) {
      const auto one = [](float) -> unsigned long long { return 1; };
      weights.lowest = key_reaching(row, k.columns, static_cast<unsigned long long>(k.top_k), -1.0, histogram, one);
    }
    if (k.top_p < 1.0) {
      const auto mass = [&](float logit) {
        return static_cast<unsigned long long>(static_cast<double>(weights(logit)) * kMassUnit);
      };
      weights.lowest = max(weights.lowest, key_reaching(row, k.columns, 0, k.top_p, histogram, mass));
    }
    // The least float that is not below minP.
    weights.least = static_cast<float>(k.min_p);
    if (static_cast<double>(weights.least) < k.min_p) weights.least = nextafterf(weights.least, 2.0f);
    const int32_t* key = k.keys + at * k.keys_stride;
    const double uniform = sample_uniform(key[0], key[1], key[2], key[3]);
    id = draw(row, k.columns, weights, uniform, sums);
  }
  const RowTransform transform = {k.inverse_temperature, 0.0f};
  const RowStatistics s = row_statistics<false>(row, k.columns, k.aligned, k.parts, transform);
  if (threadIdx.x != 0) return;
  k.ids[at] = static_cast<int32_t>(id);
  k.log_probs[at] = row_log_prob(s, to_float(row[id]), k.inverse_temperature);
}

}  // namespace

grpo_status sample(grpo_context& context, const grpo_sample_args& args) {
  if (auto status = check_sample(context, args)) return status;
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  if (rows == 0) return GRPO_OK;
  const size_t shared = (kBins + ceil_divide(columns, kChunk)) * sizeof(double);
  if (shared > context.shared_memory() || columns > (int64_t{1} << 18)) {
    return context.fail(GRPO_UNSUPPORTED, "sample: expected at most %d tokens a row but received %lld", 1 << 18,
                        static_cast<long long>(columns));
  }
  const bool greedy = args.temperature == 0.0;
  const SampleKernel k = {columns,
                          args.logits.row_stride,
                          row_parts(columns),
                          is_aligned(args.logits, 16),
                          int_data(args.keys),
                          args.keys.row_stride,
                          greedy ? 1.0f : static_cast<float>(1.0 / args.temperature),
                          greedy,
                          args.top_k < static_cast<double>(columns) ? static_cast<int64_t>(args.top_k) : 0,
                          args.top_p,
                          args.min_p,
                          int_data(args.ids),
                          float_data(args.log_probs)};
  context.written(args.ids);
  return with_float_type(args.logits, [&](const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    return launch(context, sample_kernel<T>, {dim3(static_cast<unsigned>(rows)), dim3(kRowThreads), shared}, data, k);
  });
}

}  // namespace grpo_cuda
