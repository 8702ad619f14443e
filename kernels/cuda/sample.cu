// sample: one launch. A block takes the softmax statistics of a part of a row, as token_log_probs does; the last of a
// row's blocks draws the token.
//
// A token is drawn by inverting the cumulative distribution at one random number: weights exp(z - max) are summed in
// float64 in the order of ids, and the first id whose running sum exceeds u * total is taken. Filters set weights to 0:
//   topK  keeps the topK largest logits,
//   topP  of those, the fewest largest whose probabilities reach topP,
//   minP  of those, the ones with at least minP times the largest probability.
// Tokens that tie with the last one kept are kept too, so that no filter depends on the order of ids.
//
// Without filters the sums of the parts name the part that has the token, and only that one is read a second time. A
// filter needs the row's maximum, or masses of all tokens, first: topK and topP read a row three times more each, and
// all of it is read to draw. So it is where a logit is NaN or +inf.

#include "operations.h"
#include "row_softmax.h"
// clang-format off
#include "../common/ordered_bits.h"
#include "../common/philox.h"
// clang-format on

namespace grpo_cuda {

namespace {

constexpr int kBins = 1 << 11;
constexpr int kPerLane = 8;
constexpr int64_t kChunk = kPerLane * kWarp;  // weights whose sum is kept while a token is looked for
// Masses are added up as whole numbers, in any order: of weights of at most 1, up to 2^18 fit.
constexpr double kMassUnit = 0x1p44;

struct SamplePart {
  RowStatistics statistics;
  double mass;  // of the weights against the part's own maximum, the threads' sums added up in float64
};

struct SampleKernel {
  int64_t columns, stride;
  RowParts parts;
  bool aligned;
  const int32_t* keys;
  int64_t keys_stride;
  RowTransform transform;
  bool greedy;
  int64_t top_k;  // 0: all
  double top_p, min_p;
  int64_t first;       // row of a launch
  SamplePart* found;   // [row of the launch][part]
  unsigned* counters;  // [row of the launch]
  int32_t* ids;
  float* log_probs;

  __host__ __device__ bool filters() const { return top_k > 0 || top_p < 1.0 || min_p > 0.0; }
};

// The weight of a logit: 0 for NaN, and for those whose key is below `lowest` or whose weight is below `least`. With a
// logit of +inf, and when the largest is wanted, only such tokens have a weight.
struct Weights {
  float max, inverse_temperature;
  bool greedy;
  uint32_t lowest;
  float least;

  __device__ __forceinline__ float operator()(float logit) const {
    if (greedy) return logit == max ? 1.0f : 0.0f;
    if (ordered_key(logit) < lowest) return 0.0f;
    float weight;
    if (fabsf(max) == INFINITY) {
      weight = max > 0.0f && logit == max ? 1.0f : 0.0f;
    } else {
      weight = fast_exp2(row_exponent(logit, max, inverse_temperature * kLog2e));
    }
    return weight >= least ? weight : 0.0f;  // NaN is not
  }
};

// Logits [first, first + kPerLane) of a row; NaN, which has no weight, from `end` on.
template <class T>
__device__ __forceinline__ void load_logits(float (&logits)[kPerLane], const T* row, int64_t first, int64_t end,
                                            bool aligned) {
  constexpr int kPack = Pack<T>::kSize;
  if (aligned && first + kPerLane <= end) {
#pragma unroll
    for (int n = 0; n < kPerLane; n += kPack) {
      const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(row + first + n);
#pragma unroll
      for (int i = 0; i < kPack; ++i) logits[n + i] = pack[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) logits[i] = first + i < end ? to_float(row[first + i]) : NAN;
  }
}

// Of items with masses, in their order: the first at whose end the running sum exceeds the target, or the last with a
// mass should none; -1 when there is no mass.
template <class Number>
struct Picked {
  int index;
  Number base;  // of the items before it
};

// By one warp, the result in each lane; target(sum of all) is what is asked for.
template <class Number, class Target, class Mass>
__device__ Picked<Number> pick(int count, const Target& target, const Mass& mass) {
  const int lane = threadIdx.x % kWarp, share = (count + kWarp - 1) / kWarp;
  const int first = min(count, lane * share), end = min(count, first + share);
  Number own = 0;
  for (int i = first; i < end; ++i) own += mass(i);
  Number sum = own;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const Number before = __shfl_sync(kWholeWarp, sum, lane - distance);
    if (lane >= distance) sum += before;
  }
  Number base = __shfl_sync(kWholeWarp, sum, lane - 1);
  if (lane == 0) base = 0;
  const Number wanted = target(__shfl_sync(kWholeWarp, sum, kWarp - 1));
  const int holder = warp_reduce(own > 0 && base <= wanted ? lane : -1, Max{});
  int index = -1;
  if (lane == holder) {
    Number running = base;
    for (int i = first; i < end && running <= wanted; ++i) {
      const Number next = mass(i);
      if (!(next > 0)) continue;
      index = i;
      base = running;
      running += next;
    }
  }
  return {__shfl_sync(kWholeWarp, index, max(holder, 0)), __shfl_sync(kWholeWarp, base, max(holder, 0))};
}

// The largest key such that the tokens with at least that key have a mass of `wanted` whole units, or, with `share`, of
// that share of the whole. Found digit by digit from the top, with a histogram of masses each.
template <class T, class Mass>
__device__ uint32_t key_reaching(const T* row, int64_t columns, bool aligned, unsigned long long wanted, double share,
                                 unsigned long long* histogram, const Mass& mass) {
  __shared__ uint32_t prefix;
  if (threadIdx.x == 0) prefix = 0;
  unsigned long long above = 0;  // of the bins above the chosen ones
  // Digits of 11, 11 and 10 bits.
#pragma unroll 1
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = max(21 - 11 * digit, 0), bits = digit < 2 ? 11 : 10, bins = 1 << bits;
    for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) histogram[bin] = 0;
    __syncthreads();
    const uint32_t chosen_so_far = prefix;
    for (int64_t first = threadIdx.x * kPerLane; first < columns; first += blockDim.x * kPerLane) {
      float logits[kPerLane];
      load_logits(logits, row, first, columns, aligned);
#pragma unroll
      for (const float logit : logits) {
        const uint32_t key = ordered_key(logit);
        if (digit > 0 && key >> (shift + bits) != chosen_so_far) continue;
        const unsigned long long units = mass(logit);
        if (units) atomicAdd(&histogram[key >> shift & (bins - 1)], units);
      }
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      const auto target = [&](unsigned long long total) {
        if (digit == 0 && share >= 0.0)
          wanted = static_cast<unsigned long long>(ceil(share * static_cast<double>(total)));
        return max(wanted, 1ull) - 1 - above;
      };
      const auto from_top = [&](int i) { return histogram[bins - 1 - i]; };
      const auto picked = pick<unsigned long long>(bins, target, from_top);
      above += picked.base;
      if (threadIdx.x == 0)
        prefix = chosen_so_far << bits | static_cast<uint32_t>(picked.index < 0 ? 0 : bins - 1 - picked.index);
    }
    __syncthreads();
  }
  const uint32_t key = prefix;
  __syncthreads();  // before the next call writes there
  return key;
}

// The token of [begin, end) at the target of the weights, 0 when all are 0; in the threads of the first warp. `sums`
// has room for a number a chunk.
template <class T, class Target>
__device__ int64_t draw(const T* row, int64_t begin, int64_t end, bool aligned, const Weights& weights,
                        const Target& target, double* sums) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int chunks = static_cast<int>((end - begin + kChunk - 1) / kChunk);
#pragma unroll 2
  for (int chunk = warp; chunk < chunks; chunk += warps) {
    float logits[kPerLane];
    load_logits(logits, row, begin + chunk * kChunk + lane * kPerLane, end, aligned);
    double sum = 0.0;
#pragma unroll
    for (const float logit : logits) sum += weights(logit);
    sum = warp_reduce(sum, Sum{});
    if (lane == 0) sums[chunk] = sum;
  }
  __syncthreads();
  if (warp > 0) return 0;
  double wanted = 0.0;
  const auto remember = [&](double total) { return wanted = target(total); };
  const auto chunk = pick<double>(chunks, remember, [&](int i) { return sums[i]; });
  if (chunk.index < 0) return 0;
  const int64_t first = begin + chunk.index * kChunk;
  const auto rest = [&](double) { return wanted - chunk.base; };
  const auto weight = [&](int i) -> double { return weights(to_float(row[first + i])); };
  const auto token = pick<double>(static_cast<int>(min(kChunk, end - first)), rest, weight);
  return first + max(token.index, 0);
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, 4) sample_kernel(const T* logits, SampleKernel k) {
  const int64_t place = blockIdx.x / k.parts.count, own_part = blockIdx.x % k.parts.count, at = k.first + place;
  const T* row = logits + at * k.stride;
  SamplePart* const found = k.found + place * k.parts.count;
  {
    const int64_t begin = own_part * k.parts.length, end = min(k.columns, begin + k.parts.length);
    const LaneStatistics own = lane_statistics<false>(row, begin, end, k.aligned, k.transform);
    const RowStatistics s = join_block(own, k.transform);
    const float sum = shift_lane(own, s.max, k.transform.inverse_temperature * kLog2e).sum;
    const double mass = block_reduce<kRowThreads, Sum>(static_cast<double>(sum));
    if (threadIdx.x == 0) found[own_part] = {s, mass};
  }
  if (!is_last_block(k.counters + place, k.parts.count)) return;

  auto* sums = dynamic_shared<double>();
  auto* histogram = reinterpret_cast<unsigned long long*>(sums + (k.columns + kChunk - 1) / kChunk);
  __shared__ int chosen_part;
  __shared__ double rest_of_part;
  const float inverse_temperature = k.transform.inverse_temperature;
  float most = -INFINITY;
  for (int part = 0; part < k.parts.count; ++part) most = Max{}(most, found[part].statistics.max);
  const int32_t* key = k.keys + at * k.keys_stride;
  const double uniform = k.greedy ? 0.0 : sample_uniform(key[0], key[1], key[2], key[3]);
  Weights weights = {most, inverse_temperature, k.greedy, 0, 0.0f};

  if (threadIdx.x < kWarp) {
    double total = 0.0;
    const auto mass = [&](int part) -> double {
      const float own = found[part].statistics.max;
      if (k.greedy) return own == most ? 1.0 : 0.0;
      if (row_exponent(own, most, inverse_temperature * kLog2e) <= kNoPower) return 0.0;
      return found[part].mass * exp((static_cast<double>(own) - most) * inverse_temperature);
    };
    const auto target = [&](double sum) { return uniform * (total = sum); };
    const auto part = pick<double>(k.parts.count, target, mass);
    const bool known = k.parts.count > 1 && fabsf(most) < INFINITY && (k.greedy || (!k.filters() && total < INFINITY));
    if (threadIdx.x == 0) {
      chosen_part = known ? part.index : -1;
      rest_of_part = uniform * total - part.base;
    }
  }
  __syncthreads();
  const bool in_part = chosen_part >= 0;
  if (!in_part) {
    if (k.top_k > 0) {
      const auto one = [](float logit) -> unsigned long long { return logit == logit; };
      weights.lowest =
          key_reaching(row, k.columns, k.aligned, static_cast<unsigned long long>(k.top_k), -1.0, histogram, one);
    }
    if (k.top_p < 1.0) {
      const auto mass = [&](float logit) {
        return static_cast<unsigned long long>(static_cast<double>(weights(logit)) * kMassUnit);
      };
      weights.lowest = max(weights.lowest, key_reaching(row, k.columns, k.aligned, 0, k.top_p, histogram, mass));
    }
    // The least float that is not below minP.
    weights.least = static_cast<float>(k.min_p);
    if (static_cast<double>(weights.least) < k.min_p) weights.least = nextafterf(weights.least, 2.0f);
  }
  const int64_t begin = in_part ? chosen_part * k.parts.length : 0;
  const int64_t end = in_part ? min(k.columns, begin + k.parts.length) : k.columns;
  const auto target = [&](double total) { return in_part ? rest_of_part : uniform * total; };
  const int64_t id = draw(row, begin, end, k.aligned, weights, target, sums);
  if (threadIdx.x != 0) return;
  RowStatistics s = empty_row();
  for (int part = 0; part < k.parts.count; ++part) s = join_statistics(s, found[part].statistics, inverse_temperature);
  k.ids[at] = static_cast<int32_t>(id);
  k.log_probs[at] = row_log_prob(s, to_float(row[id]), inverse_temperature);
}

}  // namespace

grpo_status sample(grpo_context& context, const grpo_sample_args& args) {
  if (auto status = check_sample(context, args)) return status;
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  if (rows == 0) return GRPO_OK;
  if (columns > (int64_t{1} << 18)) {
    return context.fail(GRPO_UNSUPPORTED, "sample: expected at most %d tokens a row but received %lld", 1 << 18,
                        static_cast<long long>(columns));
  }
  const bool greedy = args.temperature == 0.0;
  SampleKernel k = {columns,
                    args.logits.row_stride,
                    row_parts(columns),
                    is_aligned(args.logits, 16),
                    int_data(args.keys),
                    args.keys.row_stride,
                    {greedy ? 1.0f : static_cast<float>(1.0 / args.temperature), 0.0f},
                    greedy,
                    !greedy && args.top_k < static_cast<double>(columns) ? static_cast<int64_t>(args.top_k) : 0,
                    greedy ? 1.0 : args.top_p,
                    greedy ? 0.0 : args.min_p,
                    0,
                    nullptr,
                    context.counters(),
                    int_data(args.ids),
                    float_data(args.log_probs)};
  const int64_t of_launch = std::min<int64_t>(rows, grpo_context::kCounters);  // rows: mostly all of them
  k.found = static_cast<SamplePart*>(context.scratch(of_launch * k.parts.count * sizeof(SamplePart)));
  if (!k.found) return context.status();
  const size_t shared = ceil_divide(columns, kChunk) * sizeof(double) + (k.filters() ? kBins * sizeof(double) : 0);
  context.written(args.ids);
  return with_float_type(args.logits, [&](const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    for (; k.first < rows; k.first += of_launch) {
      const auto blocks = static_cast<unsigned>(std::min(of_launch, rows - k.first) * k.parts.count);
      if (auto status = launch(context, sample_kernel<T>, {dim3(blocks), dim3(kRowThreads), shared}, data, k))
        return status;
    }
    return GRPO_OK;
  });
}

}  // namespace grpo_cuda
