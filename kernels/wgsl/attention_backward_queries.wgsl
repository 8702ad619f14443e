// The gradient of OWN query rows of one head of one sequence.

fn key_row(r: vec4i, j: u32) -> u32 {
  return select(u32(r.z) + j - u32(r.y), u32(r.x) + j, j < u32(r.y));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let number = workgroup_number(workgroup, workgroups);
  let head = number % p.heads;
  let key_head = head / p.groupSize;
  let position = number / p.heads / p.sequences * OWN;
  if (thread == 0u) { run = sequence_run(number / p.heads % p.sequences); }
  let r = workgroupUniformLoad(&run);
  let length = u32(r.w);
  if (position >= length) { return; }
  let prefix = u32(r.y);
  let first_row = u32(r.z) + position;
  let count = min(OWN, length - position);
  let longest = prefix + position + count;

  let own = thread / 8u;
  let lane = thread % 8u;
  let first_column = thread % COLUMN_THREADS;
  let first_group = thread / COLUMN_THREADS * ROW_GROUPS;
  var sums_0: array<vec4f, COLUMNS>;
  var sums_1: array<vec4f, COLUMNS>;
  for (var begin = 0u; begin < longest; begin += OTHER) {
    var scores = vec4f(0.0);
    var gradients = vec4f(0.0);
    for (var chunk = 0u; chunk < p.headDim; chunk += CHUNK) {
      workgroupBarrier();
      for (var i = thread; i < OWN * CHUNK; i += THREADS) {
        let column = chunk + i % CHUNK;
        var x = vec2f(0.0);
        if (column < p.headDim && i / CHUNK < count) { x = query_pair(first_row + i / CHUNK, head, column); }
        own_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
      }
      for (var i = thread; i < OTHER * CHUNK; i += THREADS) {
        let column = chunk + i % CHUNK;
        let j = begin + i / CHUNK;
        var x = vec2f(0.0);
        if (column < p.headDim && j < longest) { x = key_pair(key_row(r, j), key_head, column); }
        other_chunk[i / CHUNK * PITCH + i % CHUNK] = x;
      }
      workgroupBarrier();
      add_chunk(own, lane, &scores, &gradients);
    }
    let row = first_row + own;
    for (var i = 0u; i < 4u; i++) {
      let other = lane + 8u * i;
      var score_grad = 0.0;
      if (own < count && begin + other <= prefix + position + own) {
        let weight = probability(scores[i], row, head);
        score_grad = score_gradient(weight, gradients[i], row, head);
      }
      score_grads[other * (OWN / 4u) + own / 4u][own % 4u] = score_grad;
    }
    workgroupBarrier();
    let end = min(begin + OTHER, longest);
    for (var c = 0u; c < COLUMNS; c++) {
      let column = first_column + c * COLUMN_THREADS;
      if (column >= p.headDim) { continue; }
      var s0 = sums_0[c];
      var s1 = sums_1[c];
      for (var j = begin; j < end; j++) {
        let key = vec4f(load_keys(key_row(r, j) * p.keys_stride + key_head * p.headDim + column));
        let at = (j - begin) * (OWN / 4u) + first_group;
        s0 = fma(score_grads[at], key, s0);
        if (ROW_GROUPS > 1u) { s1 = fma(score_grads[at + 1u], key, s1); }
      }
      sums_0[c] = s0;
      sums_1[c] = s1;
    }
  }
  for (var c = 0u; c < COLUMNS; c++) {
    let column = first_column + c * COLUMN_THREADS;
    if (column >= p.headDim) { continue; }
    for (var i = 0u; i < 4u * ROW_GROUPS; i++) {
      let row_of_own = 4u * first_group + i;
      if (row_of_own >= count) { break; }
      let sum = select(sums_0[c], sums_1[c], i >= 4u)[i % 4u];
      store_gradQueries((first_row + row_of_own) * p.gradQueries_stride + head * p.headDim + column, sum);
    }
  }
}
