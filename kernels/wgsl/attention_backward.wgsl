// What the two passes of attentionBackward share. With s = scale * q k, p = exp(s - lse) and delta = gradOut out of a
// row (statistics = (lse, delta), as attention_statistics.wgsl writes them):
//   ds_ij = p_ij (gradOut_i v_j - delta_i) scale
//   gradQueries_i = sum_j ds_ij k_j      gradKeys_j = sum_i ds_ij q_i      gradValues_j = sum_i p_ij gradOut_i
// A workgroup owns OWN rows (queries in one pass, keys in the other) and reads OTHER rows at a time of the other kind:
// every sum has one owner and a fixed order. A thread has the scores of one own row and four others.

const OWN = 8u;
const OTHER = 32u;
const CHUNK = 32u;
const PITCH = CHUNK + 1u;
const THREADS = 8u * OWN;
const COLUMN_THREADS = clamp(HEAD_DIM_POWER, 32u, THREADS);
const COLUMNS = (HEAD_DIM_POWER + COLUMN_THREADS - 1u) / COLUMN_THREADS;
const ROW_GROUPS = OWN * COLUMN_THREADS / THREADS / 4u;  // groups of four own rows of a thread, one or two

// Chunks of (queries, gradOut) and of (keys, values), own rows and others.
var<workgroup> own_chunk: array<vec2f, OWN * PITCH>;
var<workgroup> other_chunk: array<vec2f, OTHER * PITCH>;
// p and ds of [other][own], four own rows a word.
var<workgroup> weights: array<vec4f, OTHER * OWN / 4u>;
var<workgroup> score_grads: array<vec4f, OTHER * OWN / 4u>;
var<workgroup> run: vec4i;

fn sequence_run(b: u32) -> vec4i {
  return vec4i(load_runs(4u * b), load_runs(4u * b + 1u), load_runs(4u * b + 2u), load_runs(4u * b + 3u));
}

fn query_pair(row: u32, head: u32, column: u32) -> vec2f {
  return vec2f(load_queries(row * p.queries_stride + head * p.headDim + column),
               load_gradOut(row * p.gradOut_stride + head * p.headDim + column));
}

fn key_pair(row: u32, key_head: u32, column: u32) -> vec2f {
  return vec2f(load_keys(row * p.keys_stride + key_head * p.headDim + column),
               load_values(row * p.values_stride + key_head * p.headDim + column));
}

fn probability(score: f32, row: u32, head: u32) -> f32 {
  return exp(score * p.scale - load_statistics(2u * (row * p.heads + head)));
}

fn score_gradient(probability: f32, gradient: f32, row: u32, head: u32) -> f32 {
  return probability * (gradient - load_statistics(2u * (row * p.heads + head) + 1u)) * p.scale;
}

// Adds the products of own row `own` with the other rows lane, lane + 8, lane + 16 and lane + 24 over a chunk of their
// columns: first with first member, second with second.
fn add_chunk(own: u32, lane: u32, scores: ptr<function, vec4f>, gradients: ptr<function, vec4f>) {
  var first = *scores;
  var second = *gradients;
  for (var d = 0u; d < CHUNK; d++) {
    let mine = own_chunk[own * PITCH + d];
    let a = other_chunk[lane * PITCH + d];
    let b = other_chunk[(lane + 8u) * PITCH + d];
    let c = other_chunk[(lane + 16u) * PITCH + d];
    let e = other_chunk[(lane + 24u) * PITCH + d];
    first = fma(vec4f(mine.x), vec4f(a.x, b.x, c.x, e.x), first);
    second = fma(vec4f(mine.y), vec4f(a.y, b.y, c.y, e.y), second);
  }
  *scores = first;
  *gradients = second;
}
