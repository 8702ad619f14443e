// cached_attention: rows of one query each over the rows of a cache that their segments name.
//
// A block takes a key head of one row with up to kHeads of the query heads that read it, so that a key or value is read
// once for all of them. Keys and values go through it in tiles: the scores of a tile, their softmax, the weighted sum
// of the values, which is joined with that of the tiles before. In both passes over memory a team of lanes reads a head
// in 16-byte loads, several in flight.
//
// A long row is cut into parts of whole tiles, a block each; the last block of a row joins them in order. Tiles and
// parts follow from the row's own length: a row has the same bits in every batch, for every maxLength and wherever its
// rows lie in the cache. They are not the bits of `attention`, which adds up in another order. The grid follows from
// shapes and maxLength; blocks of parts that a row does not have end at once. Neighbouring blocks take the same part of
// neighbouring rows, so that rows that share a prompt read it at about the same time, all but the first from the L2
// cache.

#include "attention_rows.h"

namespace grpo_cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr unsigned kTile = 256;  // keys
constexpr unsigned kMostParts = 32;
constexpr int kLaneElements = 8;  // of a head; a team of 8, 16 or 32 lanes has all of them
constexpr int64_t kMostScratch = int64_t{128} << 20;

struct CacheParts {
  uint32_t count, length;
};
__device__ __forceinline__ CacheParts cache_parts(uint32_t keys) {
  const uint32_t tiles = (keys + kTile - 1) / kTile, tiles_of_part = (tiles + kMostParts - 1) / kMostParts;
  return {(tiles + tiles_of_part - 1) / tiles_of_part, tiles_of_part * kTile};
}

// Of a head over some keys: the largest score, and the sum of exp(score - max).
struct HeadSum {
  float max, sum;
};

// Joins a head's sums with those over the keys that follow, and the weighted sum of values with theirs.
__device__ __forceinline__ void join(HeadSum& sums, float& total, const HeadSum& next, float next_total) {
  const float max = next.max > sums.max ? next.max : sums.max, shift = max == -INFINITY ? 0.0f : max;
  const float before = expf(sums.max - shift), after = expf(next.max - shift);
  total = total * before + next_total * after;
  sums = {max, sums.sum * before + next.sum * after};
}

// The rows of a head that a query sees.
template <class T>
struct SeenHead {
  const T* data;
  int64_t stride;
  int width;
  bool aligned;  // for loads of 16 bytes
  CacheSegment segment;

  __device__ __forceinline__ const T* row(uint32_t i) const {
    const uint32_t prefix = segment.prefix_length;
    return data + (i < prefix ? segment.prefix_start + i : segment.own_start + (i - prefix)) * stride;
  }
};

// A lane's elements of a head as they are stored: 16 bytes, once or twice, beside those of the team's other lanes.
template <class T, int kTeam>
struct LaneHead {
  static constexpr int kInLoad = Pack<T>::kSize, kLoads = kLaneElements / kInLoad;
  Pack<T> loaded[kLoads];

  // Where in the head.
  static __device__ __forceinline__ int column(int lane, int element) {
    return (element / kInLoad * kTeam + lane) * kInLoad + element % kInLoad;
  }
  __device__ __forceinline__ void load(const T* head, int width) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int first = column(threadIdx.x % kTeam, i * kInLoad);
      loaded[i] = {};
      if (first < width) loaded[i] = *reinterpret_cast<const Pack<T>*>(head + first);
    }
  }
  // The same from rows that cannot be read in 16 bytes.
  __device__ __forceinline__ void load_each(const T* head, int width) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) loaded[i] = {};
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) {
      const int at = column(threadIdx.x % kTeam, i);
      if (at < width) loaded[i / kInLoad].item[i % kInLoad] = head[at];
    }
  }
  __device__ __forceinline__ float operator[](int i) const { return loaded[i / kInLoad][i % kInLoad]; }
};

// use(key, the lane's elements of it, whether it is one of the `count` keys from `begin` on), each team its share of
// the keys, all lanes of a warp together.
template <int kTeam, class T, class Use>
__device__ __forceinline__ void for_keys(const SeenHead<T>& head, uint32_t begin, int count, const Use& use) {
  using Lane = LaneHead<T, kTeam>;
  constexpr int kTeams = kThreads / kTeam, kAhead = 4 / Lane::kLoads;  // four loads in flight
  for (int first = 0; first < count; first += kTeams * kAhead) {
    const int own = first + threadIdx.x / kTeam;
    Lane lanes[kAhead];
    const T* from[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) from[i] = head.row(begin + min(own + i * kTeams, count - 1));
    if (head.aligned) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) lanes[i].load(from[i], head.width);
    } else {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) lanes[i].load_each(from[i], head.width);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) use(own + i * kTeams, lanes[i], own + i * kTeams < count);
  }
}

// Leaves a lane half of 2 * kHalf values, each added up over the lane and the one at `distance`.
template <int kHalf>
__device__ __forceinline__ void halve(float* value, int distance) {
  const bool upper = threadIdx.x & distance;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float low = value[i], high = value[i + kHalf];
    value[i] = (upper ? high : low) + __shfl_xor_sync(kWholeWarp, upper ? low : high, distance);
  }
}

// The sum over a team's lanes of value[lane % kHeads].
template <int kTeam, int kHeads>
__device__ __forceinline__ float team_sum(float (&value)[kHeads]) {
  static_assert(kHeads == 4 || kHeads == 8);
  if constexpr (kHeads == 8) halve<4>(value, 4);
  halve<2>(value, 2);
  halve<1>(value, 1);
#pragma unroll
  for (int distance = kHeads; distance < kTeam; distance *= 2)
    value[0] += __shfl_xor_sync(kWholeWarp, value[0], distance);
  return value[0];
}

// The sums over a warp's teams: those from the returned place on are then in the lane's first values.
template <int kTeam, int kValues>
__device__ __forceinline__ int sum_teams(float (&value)[kValues]) {
  int place = 0;
  if constexpr (kTeam == 8) {
    halve<kValues / 2>(value, 8);
    if (threadIdx.x & 8) place = kValues / 2;
  }
  if constexpr (kTeam <= 16) {
    constexpr int kHalf = kValues * kTeam / kWarp;
    halve<kHalf>(value, 16);
    if (threadIdx.x & 16) place += kHalf;
  }
  return place;
}

// The values of a warp's lanes whose numbers are equal modulo kHeads, joined.
template <int kHeads, class Join>
__device__ __forceinline__ float head_reduce(float value, const Join& join) {
#pragma unroll
  for (int distance = kHeads; distance < kWarp; distance *= 2)
    value = join(value, __shfl_xor_sync(kWholeWarp, value, distance));
  return value;
}

template <class T>
struct CachedKernel {
  FloatRows queries, out;
  const T *keys, *values;
  int64_t key_stride, value_stride, cached;
  bool aligned;
  const int32_t* segments;
  int64_t segment_stride, rows;
  double max_length;
  Heads heads;
  int64_t sets;  // of query heads that a block takes, a key head
  float scale;
  int64_t first_unit;
  uint32_t units;         // of this launch; a unit is a row with a set of query heads
  float* partial;         // [part][unit][kHeads * kLaneElements][kTeam]
  HeadSum* partial_sums;  // [part][unit][kHeads]
  unsigned* counters;     // [unit]
};

template <class T, int kTeam, int kHeads>
struct CachedBlock {
  static constexpr int kValues = kHeads * kLaneElements, kAll = kValues * kTeam;
  static constexpr int kScores = kTile * kHeads, kSums = kWarps * kAll;
  static constexpr size_t kShared = (2 * kAll + (kScores > kSums ? kScores : kSums)) * sizeof(float);
};

template <class T, int kTeam, int kHeads>
__global__ void __launch_bounds__(kThreads, 2) cached_attention_kernel(CachedKernel<T> a) {
  using Lane = LaneHead<T, kTeam>;
  using Block = CachedBlock<T, kTeam, kHeads>;
  constexpr int kValues = Block::kValues, kAll = Block::kAll;
  // [kHeads][kTeam][kLaneElements], [kValues][kTeam], and a tile's scores and then weights, [key][kHeads], whose place
  // the sums of its warps take, [warp][kValues][kTeam].
  float *const query = dynamic_shared<float>(), *const total = query + kAll, *const work = total + kAll;
  __shared__ float warp_max[kWarps][kHeads], warp_sum[kWarps][kHeads];
  __shared__ HeadSum tile[kHeads], so_far[kHeads];

  const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kTeam, width = static_cast<int>(a.heads.width);
  const uint32_t unit = blockIdx.x % a.units, part = blockIdx.x / a.units;
  const int64_t row = (a.first_unit + unit) % a.rows, set = (a.first_unit + unit) / a.rows;
  const int64_t key_head = set / a.sets, skipped = set % a.sets * kHeads;
  const int heads = static_cast<int>(min(int64_t{kHeads}, a.heads.group - skipped));
  const int64_t column = (key_head * a.heads.group + skipped) * width;  // of the first query head

  const int32_t* s = a.segments + row * a.segment_stride;
  const CacheSegment segment = {s[0], s[1], s[2], s[3]};
  if (!segment_fits(segment, a.cached, a.max_length)) {  // refused before, unless checks are off
    if (part > 0) return;
    for (int i = thread; i < heads * width; i += kThreads) a.out.store(row, column + i, NAN);
    return;
  }
  const uint32_t length = uint32_t(segment.prefix_length) + segment.own_length;
  const CacheParts parts = cache_parts(length);
  if (part >= parts.count) return;
  const SeenHead<T> keys = {a.keys + key_head * width, a.key_stride, width, a.aligned, segment};
  const SeenHead<T> values = {a.values + key_head * width, a.value_stride, width, a.aligned, segment};

  for (int i = thread; i < kAll; i += kThreads) {
    const int head = i / (kTeam * kLaneElements), from = Lane::column(i / kLaneElements % kTeam, i % kLaneElements);
    query[i] = head < heads && from < width ? a.queries.load(row, column + head * width + from) : 0.0f;
    total[i] = 0.0f;
  }
  if (thread < kHeads) so_far[thread] = {-INFINITY, 0.0f};
  __syncthreads();

  const uint32_t end = min(length, (part + 1) * parts.length);
  for (uint32_t begin = part * parts.length; begin < end; begin += kTile) {
    const int count = static_cast<int>(min(kTile, end - begin));
    float most = -INFINITY;  // of head thread % kHeads
    {
      float own_query[kHeads][kLaneElements];
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) own_query[h][i] = query[(h * kTeam + lane) * kLaneElements + i];
      }
      for_keys<kTeam>(keys, begin, count, [&](int key, const Lane& elements, bool exists) {
        float score[kHeads] = {};
#pragma unroll
        for (int i = 0; i < kLaneElements; ++i) {
          const float x = elements[i];
#pragma unroll
          for (int h = 0; h < kHeads; ++h) score[h] = fmaf(own_query[h][i], x, score[h]);
        }
        const float own = team_sum<kTeam>(score) * a.scale;
        if (!exists) return;
        most = own > most ? own : most;
        if (lane < kHeads) work[key * kHeads + lane] = own;
      });
    }
    most = head_reduce<kHeads>(most, Max{});
    if (thread % kWarp < kHeads) warp_max[warp][thread % kWarp] = most;
    __syncthreads();

    most = warp_max[0][thread % kHeads];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) most = Max{}(most, warp_max[w][thread % kHeads]);
    const float shift = most == -INFINITY ? 0.0f : most;
    float sum = 0.0f;
    for (int i = thread; i < count * kHeads; i += kThreads) {
      const float weight = expf(work[i] - shift);
      work[i] = weight;
      sum += weight;
    }
    sum = head_reduce<kHeads>(sum, Sum{});
    if (thread % kWarp < kHeads) warp_sum[warp][thread % kWarp] = sum;
    __syncthreads();
    if (thread < kHeads) {
      sum = warp_sum[0][thread];
      for (int w = 1; w < kWarps; ++w) sum += warp_sum[w][thread];
      tile[thread] = {most, sum};
    }

    float own[kValues] = {};
    for_keys<kTeam>(values, begin, count, [&](int key, const Lane& elements, bool exists) {
      if (!exists) return;
      float weight[kHeads];
#pragma unroll
      for (int h = 0; h < kHeads; ++h) weight[h] = work[key * kHeads + h];
#pragma unroll
      for (int i = 0; i < kLaneElements; ++i) {
        const float x = elements[i];
#pragma unroll
        for (int h = 0; h < kHeads; ++h) own[h * kLaneElements + i] = fmaf(weight[h], x, own[h * kLaneElements + i]);
      }
    });
    const int place = sum_teams<kTeam>(own);
    __syncthreads();  // the weights have been used
#pragma unroll
    for (int i = 0; i < kValues * kTeam / kWarp; ++i) work[warp * kAll + (place + i) * kTeam + lane] = own[i];
    __syncthreads();
    for (int i = thread; i < kAll; i += kThreads) {
      float tile_total = work[i];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) tile_total += work[w * kAll + i];
      HeadSum sums = so_far[i / (kTeam * kLaneElements)];
      join(sums, total[i], tile[i / (kTeam * kLaneElements)], tile_total);
    }
    __syncthreads();
    if (thread < kHeads) {
      float none = 0.0f;
      join(so_far[thread], none, tile[thread], none);
    }
  }

  if (parts.count > 1) {
    const int64_t at = int64_t{part} * a.units + unit;
    for (int i = thread; i < kAll; i += kThreads) a.partial[at * kAll + i] = total[i];
    if (thread < kHeads) a.partial_sums[at * kHeads + thread] = so_far[thread];
    if (!is_last_block(a.counters + unit, parts.count)) return;
    for (int i = thread; i < kAll; i += kThreads) {
      const int head = i / (kTeam * kLaneElements);
      HeadSum sums = {-INFINITY, 0.0f};
      float joined = 0.0f;
#pragma unroll 4
      for (int64_t p = unit; p < int64_t{parts.count} * a.units; p += a.units)
        join(sums, joined, a.partial_sums[p * kHeads + head], a.partial[p * kAll + i]);
      total[i] = joined;
      if (i % (kTeam * kLaneElements) == 0) so_far[head] = sums;
    }
  }
  __syncthreads();
  for (int i = thread; i < heads * width; i += kThreads) {
    const int head = i / width, at = i % width, load = at / (kTeam * Lane::kInLoad);
    const int element = load * Lane::kInLoad + at % Lane::kInLoad, of = at / Lane::kInLoad % kTeam;
    a.out.store(row, column + i, total[(head * kLaneElements + element) * kTeam + of] / so_far[head].sum);
  }
}

template <class T, int kTeam, int kHeads>
grpo_status run_cached(grpo_context& context, CachedKernel<T> a) {
  using Block = CachedBlock<T, kTeam, kHeads>;
  a.sets = ceil_divide(a.heads.group, kHeads);
  const int64_t all = a.rows * (a.heads.query_heads / a.heads.group) * a.sets;
  // No row has more parts than this.
  const int64_t parts = a.max_length < kTile * kMostParts
                            ? std::max<int64_t>(1, ceil_divide(static_cast<int64_t>(a.max_length), kTile))
                            : kMostParts;
  const int64_t part_bytes = Block::kAll * sizeof(float) + kHeads * sizeof(HeadSum);
  const int64_t most = std::min<int64_t>(grpo_context::kCounters, kMostScratch / (parts * part_bytes));
  const int64_t units = ceil_divide(all, ceil_divide(all, most));  // of a launch: mostly all of them
  a.counters = context.counters();
  for (a.first_unit = 0; a.first_unit < all; a.first_unit += units) {
    a.units = static_cast<uint32_t>(std::min(units, all - a.first_unit));
    if (parts > 1) {
      a.partial = static_cast<float*>(context.scratch(parts * a.units * part_bytes));
      if (!a.partial) return context.status();
      a.partial_sums = reinterpret_cast<HeadSum*>(a.partial + parts * a.units * Block::kAll);
    }
    if (auto status = launch(context, cached_attention_kernel<T, kTeam, kHeads>,
                             {dim3(static_cast<unsigned>(parts) * a.units), dim3(kThreads), Block::kShared}, a))
      return status;
  }
  return GRPO_OK;
}

template <class T, int kTeam>
grpo_status run_with_heads(grpo_context& context, const CachedKernel<T>& a) {
  // Eight heads of 32 lanes do not fit into the registers.
  if constexpr (kTeam < 32) {
    if (a.heads.group > 4) return run_cached<T, kTeam, 8>(context, a);
  }
  return run_cached<T, kTeam, 4>(context, a);
}

grpo_status check_segments(grpo_context& context, const grpo_cached_attention_args& args) {
  const int64_t rows = args.queries.shape[0], stride = args.segments.row_stride;
  if (!context.checks_indices() || context.captures() || rows == 0) return GRPO_OK;
  grpo_tensor whole = args.segments;
  // The last row may end before its stride does.
  whole.rank = 1;
  whole.shape[0] = (rows - 1) * stride + 4;
  const int32_t* segments = context.host_integers(whole);
  if (!segments) return context.status();
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* s = segments + row * stride;
    const CacheSegment segment = {s[0], s[1], s[2], s[3]};
    if (auto status = check_segment(context, segment, row, args.key_cache.shape[0], args.max_length)) return status;
  }
  return GRPO_OK;
}

}  // namespace

grpo_status cached_attention(grpo_context& context, const grpo_cached_attention_args& args) {
  const char* const name = "cachedAttention";
  if (auto status = check_heads(context, name, args.queries, args.key_cache, args.head_dim)) return status;
  if (auto status = check_head_width(context, name, args.head_dim)) return status;
  if (args.value_cache.dtype != args.key_cache.dtype) {
    return context.fail(GRPO_UNSUPPORTED, "%s: expected keyCache and valueCache of one dtype", name);
  }
  if (auto status = check_segments(context, args)) return status;
  const Heads heads = heads_of(args.queries, args.key_cache, args.head_dim);
  const int64_t rows = args.queries.shape[0];
  if (rows == 0 || heads.query_heads == 0) return GRPO_OK;
  return with_float_type(args.key_cache, [&](const auto* keys) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(keys)>>;
    CachedKernel<T> a = {};
    a.queries = float_rows(args.queries);
    a.out = float_rows(args.out);
    a.keys = keys;
    a.values = static_cast<const T*>(args.value_cache.data);
    a.key_stride = args.key_cache.row_stride;
    a.value_stride = args.value_cache.row_stride;
    a.cached = args.key_cache.shape[0];
    a.aligned = is_aligned(args.key_cache, 16) && is_aligned(args.value_cache, 16) &&
                heads.width % static_cast<int64_t>(16 / sizeof(T)) == 0;
    a.segments = int_data(args.segments);
    a.segment_stride = args.segments.row_stride;
    a.rows = rows;
    a.max_length = args.max_length;
    a.heads = heads;
    a.scale = static_cast<float>(args.scale);
    if (heads.width <= 8 * kLaneElements) return run_with_heads<T, 8>(context, a);
    if (heads.width <= 16 * kLaneElements) return run_with_heads<T, 16>(context, a);
    return run_with_heads<T, 32>(context, a);
  });
}

}  // namespace grpo_cuda
