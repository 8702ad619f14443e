// The arithmetic of attention rows, the same for sequences in training (attention_packed.wgsl) and for rows that read a
// cache in decoding (attention_cached.wgsl), so that both give a row the same bits: online softmax over tiles of KEYS
// keys from the first on, each score one chain of fma over the head, each output one chain of fma over the keys.
//
// A workgroup has QUERIES query rows that read the same keys, and LANES (8) threads a row. Of the scores a thread has those of
// one query and four keys of a tile, of the output some rows of some columns. No key is read more than once a tile.

const KEYS = 32u;
const CHUNK = 32u;              // elements of heads in workgroup memory at a time
const PITCH = CHUNK + 1u;
const COLUMN_THREADS = clamp(HEAD_DIM_POWER, 32u, THREADS);
const COLUMNS = (HEAD_DIM_POWER + COLUMN_THREADS - 1u) / COLUMN_THREADS;  // columns of a thread
const ROW_GROUPS = QUERIES * COLUMN_THREADS / THREADS / 4u;         // groups of four rows of a thread, at most four

var<workgroup> query_chunk: array<f32, QUERIES * PITCH>;
var<workgroup> key_chunk: array<f32, KEYS * PITCH>;
var<workgroup> weights: array<vec4f, QUERIES / 4u * KEYS>;  // [key][row], four rows a word
var<workgroup> rescales: array<vec4f, QUERIES / 4u>;
var<workgroup> run: vec4i;

// The rows that the queries of a workgroup see: prefix_length from prefix_start on, then others from own_start on.
// Query i sees the first limit(i) of them; `longest` is the largest limit.
struct Seen {
  prefix_start: u32,
  prefix_length: u32,
  own_start: u32,
  longest: u32,
}

fn key_row(seen: Seen, j: u32) -> u32 {
  return select(seen.own_start + j - seen.prefix_length, seen.prefix_start + j, j < seen.prefix_length);
}

fn attend(thread: u32, seen: Seen) {
  let query = thread / 8u;
  let lane = thread % 8u;
  let first_column = thread % COLUMN_THREADS;
  let first_group = thread / COLUMN_THREADS * ROW_GROUPS;
  let own_limit = limit(query);

  // The rows of a thread, by name: an array that is indexed by a variable would lie in memory.
  let limits_0 = group_limits(first_group);
  let limits_1 = group_limits(first_group + 1u);
  let limits_2 = group_limits(first_group + 2u);
  let limits_3 = group_limits(first_group + 3u);
  var sums_0: array<vec4f, COLUMNS>;
  var sums_1: array<vec4f, COLUMNS>;
  var sums_2: array<vec4f, COLUMNS>;
  var sums_3: array<vec4f, COLUMNS>;
  var most = 0.0;
  var total = 0.0;
  for (var begin = 0u; begin < seen.longest; begin += KEYS) {
    var scores = vec4f(0.0);
    for (var chunk = 0u; chunk < p.headDim; chunk += CHUNK) {
      workgroupBarrier();
      for (var i = thread; i < QUERIES * CHUNK; i += THREADS) {
        let column = chunk + i % CHUNK;
        var x = 0.0;
        if (column < p.headDim && limit(i / CHUNK) > 0u) { x = load_queries(query_place(i / CHUNK) + column); }
        query_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
      }
      for (var i = thread; i < KEYS * CHUNK; i += THREADS) {
        let j = begin + i / CHUNK;
        let column = chunk + i % CHUNK;
        var x = 0.0;
        if (column < p.headDim && j < seen.longest) { x = load_keys(key_row(seen, j) * p.keys_stride + key_column() + column); }
        key_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
      }
      workgroupBarrier();
      for (var d = 0u; d < CHUNK; d++) {
        let keys = vec4f(key_chunk[lane * PITCH + d], key_chunk[(lane + 8u) * PITCH + d],
                         key_chunk[(lane + 16u) * PITCH + d], key_chunk[(lane + 24u) * PITCH + d]);
        scores = fma(vec4f(query_chunk[query * PITCH + d]), keys, scores);
      }
    }
    scores *= p.scale;
    let visible = vec4u(begin + lane, begin + lane + 8u, begin + lane + 16u, begin + lane + 24u) < vec4u(own_limit);
    let bounded = select(vec4f(-3.4e38), scores, visible);
    let largest = lanes_most(thread, max(max(bounded.x, bounded.y), max(bounded.z, bounded.w)));
    let next = select(max(most, largest), largest, begin == 0u);
    // Keys that a row does not see leave its bits alone: the other rows of the tile may be in front of it.
    let rescale = select(select(exp(most - next), 1.0, most == next), 0.0, begin == 0u);
    let weight = select(vec4f(0.0), exp(scores - next), visible);
    most = next;
    for (var i = 0u; i < 4u; i++) { weights[(lane + 8u * i) * (QUERIES / 4u) + query / 4u][query % 4u] = weight[i]; }
    if (lane == 0u) { rescales[query / 4u][query % 4u] = rescale; }
    total = total * rescale + lanes_sum(thread, (weight.x + weight.y) + (weight.z + weight.w));
    workgroupBarrier();

    let end = min(begin + KEYS, seen.longest);
    for (var c = 0u; c < COLUMNS; c++) {
      let column = first_column + c * COLUMN_THREADS;
      if (column >= p.headDim) { continue; }
      var s0 = sums_0[c] * rescales[first_group];
      var s1 = sums_1[c];
      var s2 = sums_2[c];
      var s3 = sums_3[c];
      if (ROW_GROUPS > 1u) { s1 *= rescales[first_group + 1u]; }
      if (ROW_GROUPS > 2u) {
        s2 *= rescales[first_group + 2u];
        s3 *= rescales[first_group + 3u];
      }
      for (var j = begin; j < end; j++) {
        let value = vec4f(load_values(key_row(seen, j) * p.values_stride + key_column() + column));
        let at = (j - begin) * (QUERIES / 4u) + first_group;
        // An unseen value may be infinite: 0 times it is not 0.
        let key = vec4u(j);
        s0 = select(s0, fma(weights[at], value, s0), key < limits_0);
        if (ROW_GROUPS > 1u) { s1 = select(s1, fma(weights[at + 1u], value, s1), key < limits_1); }
        if (ROW_GROUPS > 2u) {
          s2 = select(s2, fma(weights[at + 2u], value, s2), key < limits_2);
          s3 = select(s3, fma(weights[at + 3u], value, s3), key < limits_3);
        }
      }
      sums_0[c] = s0;
      sums_1[c] = s1;
      sums_2[c] = s2;
      sums_3[c] = s3;
    }
  }
  workgroupBarrier();
  if (lane == 0u && own_limit > 0u) {
    rescales[query / 4u][query % 4u] = 1.0 / total;
    if (HAS_LOG_SUM_EXP) { store_logSumExp(log_sum_exp_place(query), most + log(total)); }
  }
  workgroupBarrier();
  for (var group = 0u; group < ROW_GROUPS; group++) {
    for (var c = 0u; c < COLUMNS; c++) {
      let column = first_column + c * COLUMN_THREADS;
      if (column >= p.headDim) { continue; }
      var sum = sums_0[c];
      if (group == 1u) { sum = sums_1[c]; }
      if (group == 2u) { sum = sums_2[c]; }
      if (group == 3u) { sum = sums_3[c]; }
      sum *= rescales[first_group + group];
      for (var i = 0u; i < 4u; i++) {
        let row = (first_group + group) * 4u + i;
        if (limit(row) > 0u) { store_out(out_place(row) + column, sum[i]); }
      }
    }
  }
}

fn group_limits(group: u32) -> vec4u {
  return vec4u(limit(4u * group), limit(4u * group + 1u), limit(4u * group + 2u), limit(4u * group + 3u));
}
