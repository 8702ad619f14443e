// sample. Compiled once an instruction set (isa/kernels.inc).
//
// A token is drawn by inverting the cumulative distribution at one random number: weights exp(z - max) are summed in
// float64 in the order of ids, and the first id whose running sum exceeds u * total is taken. Filters set weights to 0:
//   topK  keeps the topK largest logits,
//   topP  of those, the fewest largest whose probabilities reach topP,
//   minP  of those, the ones with at least minP times the largest probability.
// Tokens that tie with the last one kept are kept too, so that no filter depends on the order of ids.

#include "../common/ordered_bits.h"
#include "../common/philox.h"

// The largest key such that the tokens with at least that key have a mass of `share` of the whole, or of `share` itself
// with `absolute`. Found digit by digit from the top, with a histogram of masses each; no token is moved.
template <class Mass>
static uint32_t key_reaching(const uint32_t* keys, int64_t n, double share, bool absolute, const Mass& mass) {
  constexpr int kShifts[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  double above = 0.0, target = share;
  uint32_t prefix = 0;
  for (int digit = 0; digit < 3; ++digit) {
    const int shift = kShifts[digit], bins = 1 << kBits[digit];
    double histogram[1 << 11] = {};
    for (int64_t i = 0; i < n; ++i) {
      if (digit > 0 && (keys[i] >> kShifts[digit - 1]) != prefix) continue;
      histogram[keys[i] >> shift & (bins - 1)] += mass(i);
    }
    if (digit == 0 && !absolute) {
      double total = 0.0;
      for (int bin = bins - 1; bin >= 0; --bin) total += histogram[bin];
      target = share * total;
    }
    int chosen = 0;
    for (int bin = bins - 1; bin >= 0; --bin) {
      if (histogram[bin] == 0.0) continue;
      chosen = bin;  // the lowest bin with mass, should rounding keep the sum below the target
      if (above + histogram[bin] >= target) break;
      above += histogram[bin];
    }
    prefix = prefix << kBits[digit] | static_cast<uint32_t>(chosen);
  }
  return prefix;
}

struct SampleFilters {
  int64_t top_k;
  double top_p, min_p;
};

// Sets the weights of tokens that a filter removes to 0. The largest weight is 1.
template <class T>
static void filter_weights(const T* row, int64_t n, const SampleFilters& filters, float* weights, uint32_t* keys) {
  const auto keep_from = [&](uint32_t lowest) {
    for (int64_t i = 0; i < n; ++i) weights[i] = keys[i] >= lowest ? weights[i] : 0.0f;
  };
  const bool top_k = filters.top_k > 0 && filters.top_k < n, top_p = filters.top_p < 1.0;
  if (top_k || top_p) {
    for (int64_t i = 0; i < n; ++i) keys[i] = ordered_key(to_float(row[i]));
  }
  if (top_k) keep_from(key_reaching(keys, n, static_cast<double>(filters.top_k), true, [](int64_t) { return 1.0; }));
  if (top_p) {
    keep_from(key_reaching(keys, n, filters.top_p, false, [&](int64_t i) { return static_cast<double>(weights[i]); }));
  }
  if (filters.min_p > 0.0) {
    for (int64_t i = 0; i < n; ++i) weights[i] = weights[i] >= filters.min_p ? weights[i] : 0.0f;
  }
}

constexpr int64_t kBlock = 256;  // weights that are summed before the running sum is looked at

// The token at share `uniform` of the weights, 0 when all weights are 0.
static int64_t draw(const float* weights, int64_t n, double uniform, double* block_sums) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    vdouble lanes = {};
    int64_t i = begin;
    for (; i + kDoubles <= end; i += kDoubles) {
      lanes += __builtin_convertvector(*reinterpret_cast<const vhalf_float_u*>(weights + i), vdouble);
    }
    double sum = 0.0;
    for (; i < end; ++i) sum += weights[i];
    for (int j = 0; j < kDoubles; ++j) sum += lanes[j];
    block_sums[begin / kBlock] = sum;
    total += sum;
  }
  // The first block whose end lies above the target, or the last with a weight should rounding keep all below.
  const double target = uniform * total;
  double base = 0.0, running = 0.0;
  int64_t chosen = 0;
  for (int64_t block = 0; block * kBlock < n && running <= target; ++block) {
    if (block_sums[block] == 0.0) continue;
    chosen = block;
    base = running;
    running += block_sums[block];
  }
  int64_t id = 0;
  running = base;
  for (int64_t i = chosen * kBlock; i < std::min((chosen + 1) * kBlock, n) && running <= target; ++i) {
    if (weights[i] == 0.0f) continue;
    id = i;
    running += weights[i];
  }
  return id;
}

// The id of the largest logit, the lowest among equals. NaN is never the largest.
template <class T>
static int64_t largest(const T* row, int64_t n) {
  vfloat lanes = vset(-__builtin_inff());
  for (int64_t i = 0; i < n; i += kWidth) lanes = vmax(load_logits(row + i, n - i), lanes);
  const float most = reduce_max(lanes);
  for (int64_t i = 0; i < n; ++i) {
    if (to_float(row[i]) == most) return i;
  }
  return 0;
}

// weights = exp((logit - max) / temperature), 0 for NaN. With a logit of +inf only such tokens have a weight.
template <class T>
static void sample_weights(const T* row, int64_t n, float max, float inverse_temperature, float* weights) {
  if (std::isinf(max)) {
    for (int64_t i = 0; i < n; ++i) weights[i] = max > 0.0f && to_float(row[i]) == max ? 1.0f : 0.0f;
    return;
  }
  const vfloat shift = vset(max), scale = vset(inverse_temperature);
  for (int64_t i = 0; i < n; i += kWidth) {
    const vfloat weight = vexp_nonpositive((load_logits(row + i, n - i) - shift) * scale);
    vstore_some(weights + i, n - i, weight == weight ? weight : vfloat{});
  }
}

grpo_status sample(grpo_context& context, const grpo_sample_args& args) {
  const int64_t rows = args.logits.shape[0], n = args.logits.shape[1];
  if (auto status = check_sample(context, args)) return status;
  const bool greedy = args.temperature == 0.0;
  const RowTransform transform = {greedy ? 1.0f : static_cast<float>(1.0 / args.temperature), 0.0f};
  const SampleFilters filters = {args.top_k < static_cast<double>(n) ? static_cast<int64_t>(args.top_k) : 0, args.top_p,
                                 args.min_p};
  int32_t* ids = static_cast<int32_t*>(args.ids.data);
  float* log_probs = static_cast<float*>(args.log_probs.data);
  const size_t block_bytes = (n / kBlock + 1) * sizeof(double);
  parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int worker) {
    char* scratch = static_cast<char*>(context.worker_scratch(worker, block_bytes + 2 * n * sizeof(float)));
    double* block_sums = reinterpret_cast<double*>(scratch);
    float* weights = reinterpret_cast<float*>(scratch + block_bytes);
    uint32_t* keys = reinterpret_cast<uint32_t*>(weights + n);
    with_float_type(args.logits, [&](auto* logits) {
      for (int64_t s = begin; s < end; ++s) {
        const auto* row = logits + s * args.logits.row_stride;
        const int32_t* key = static_cast<const int32_t*>(args.keys.data) + s * args.keys.row_stride;
        const int64_t top = largest(row, n);
        int64_t id = top;
        if (!greedy) {
          sample_weights(row, n, to_float(row[top]), transform.inverse_temperature, weights);
          filter_weights(row, n, filters, weights, keys);
          id = draw(weights, n, sample_uniform(key[0], key[1], key[2], key[3]), block_sums);
        }
        ids[s] = static_cast<int32_t>(id);
        log_probs[s] =
            row_log_prob(row_statistics<false>(row, n, transform), to_float(row[id]), transform.inverse_temperature);
      }
    });
  });
  return GRPO_OK;
}
