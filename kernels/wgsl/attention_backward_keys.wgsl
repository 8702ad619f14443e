// The gradients of OWN key and value rows of one key head of one sequence: over the rows of the sequence from there on,
// then over all rows of each sequence that continues it, every query head of the key head in turn.

var<workgroup> next_child: atomic<u32>;
var<workgroup> child: u32;

// The first sequence from `from` on that continues the one that starts at `start`, or the number of sequences.
fn child_from(thread: u32, start: i32, begin: u32) -> u32 {
  workgroupBarrier();
  if (thread == 0u) { atomicStore(&next_child, p.sequences); }
  workgroupBarrier();
  for (var b = begin + thread; b < p.sequences; b += THREADS) {
    if (load_runs(4u * b + 1u) > 0 && load_runs(4u * b) == start) {
      atomicMin(&next_child, b);
      break;
    }
  }
  workgroupBarrier();
  if (thread == 0u) { child = atomicLoad(&next_child); }
  return workgroupUniformLoad(&child);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let number = workgroup_number(workgroup, workgroups);
  let key_head = number % p.keyHeads;
  let sequence = number / p.keyHeads % p.sequences;
  let position = number / p.keyHeads / p.sequences * OWN;
  if (thread == 0u) { run = sequence_run(sequence); }
  let r = workgroupUniformLoad(&run);
  let length = u32(r.w);
  if (position >= length) { return; }
  let first_key = u32(r.z) + position;
  let count = min(OWN, length - position);

  let own = thread / 8u;
  let lane = thread % 8u;
  let first_column = thread % COLUMN_THREADS;
  let first_group = thread / COLUMN_THREADS * ROW_GROUPS;
  var key_sums_0: array<vec4f, COLUMNS>;
  var key_sums_1: array<vec4f, COLUMNS>;
  var value_sums_0: array<vec4f, COLUMNS>;
  var value_sums_1: array<vec4f, COLUMNS>;

  // The query rows [begin, end) of one sequence at a time; query `begin` sees the first `seen` of the own keys.
  var begin = u32(r.z) + position;
  var end = u32(r.z) + length;
  var seen = 1u;
  var family = sequence + 1u;
  loop {
    for (var head = key_head * p.groupSize; head < (key_head + 1u) * p.groupSize; head++) {
      for (var first = begin; first < end; first += OTHER) {
        var scores = vec4f(0.0);
        var gradients = vec4f(0.0);
        for (var chunk = 0u; chunk < p.headDim; chunk += CHUNK) {
          workgroupBarrier();
          for (var i = thread; i < OWN * CHUNK; i += THREADS) {
            let column = chunk + i % CHUNK;
            var x = vec2f(0.0);
            if (column < p.headDim && i / CHUNK < count) { x = key_pair(first_key + i / CHUNK, key_head, column); }
            own_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
          }
          for (var i = thread; i < OTHER * CHUNK; i += THREADS) {
            let column = chunk + i % CHUNK;
            let row = first + i / CHUNK;
            var x = vec2f(0.0);
            if (column < p.headDim && row < end) { x = query_pair(row, head, column); }
            other_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
          }
          workgroupBarrier();
          add_chunk(own, lane, &scores, &gradients);
        }
        for (var i = 0u; i < 4u; i++) {
          let other = lane + 8u * i;
          let row = first + other;
          var pair = vec2f(0.0);
          if (own < count && row < end && own < row - begin + seen) {
            let weight = probability(scores[i], row, head);
            pair = vec2f(weight, score_gradient(weight, gradients[i], row, head));
          }
          let at = other * (OWN / 4u) + own / 4u;
          weights[at][own % 4u] = pair.x;
          score_grads[at][own % 4u] = pair.y;
        }
        workgroupBarrier();
        for (var c = 0u; c < COLUMNS; c++) {
          let column = first_column + c * COLUMN_THREADS;
          if (column >= p.headDim) { continue; }
          var k0 = key_sums_0[c];
          var k1 = key_sums_1[c];
          var v0 = value_sums_0[c];
          var v1 = value_sums_1[c];
          for (var row = first; row < min(first + OTHER, end); row++) {
            let pair = query_pair(row, head, column);
            let at = (row - first) * (OWN / 4u) + first_group;
            k0 = fma(score_grads[at], vec4f(pair.x), k0);
            v0 = fma(weights[at], vec4f(pair.y), v0);
            if (ROW_GROUPS > 1u) {
              k1 = fma(score_grads[at + 1u], vec4f(pair.x), k1);
              v1 = fma(weights[at + 1u], vec4f(pair.y), v1);
            }
          }
          key_sums_0[c] = k0;
          key_sums_1[c] = k1;
          value_sums_0[c] = v0;
          value_sums_1[c] = v1;
        }
      }
    }
    if (!HAS_PARENTS) { break; }
    if (r.y > 0) { break; }
    family = child_from(thread, r.z, family);
    if (family >= p.sequences) { break; }
    if (thread == 0u) { run = sequence_run(family); }
    let other = workgroupUniformLoad(&run);
    begin = u32(other.z);
    end = begin + u32(other.w);
    seen = OWN;  // a continuation sees all
    family++;
  }
  for (var c = 0u; c < COLUMNS; c++) {
    let column = first_column + c * COLUMN_THREADS;
    if (column >= p.headDim) { continue; }
    for (var i = 0u; i < 4u * ROW_GROUPS; i++) {
      let row_of_own = 4u * first_group + i;
      if (row_of_own >= count) { break; }
      let row = first_key + row_of_own;
      let place = key_head * p.headDim + column;
      store_gradKeys(row * p.gradKeys_stride + place, select(key_sums_0[c], key_sums_1[c], i >= 4u)[i % 4u]);
      store_gradValues(row * p.gradValues_stride + place, select(value_sums_0[c], value_sums_1[c], i >= 4u)[i % 4u]);
    }
  }
}
