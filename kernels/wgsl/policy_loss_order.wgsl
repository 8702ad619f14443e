// The first pass of policyLoss: a workgroup a sequence. Puts its active tokens next to each other, so that sums over
// them do not depend on where masked tokens stand, and sets the gradients of masked tokens to 0. `order` has the
// place of each active token, and behind the N places the number of active tokens of each sequence.

const THREADS = 64u;
var<workgroup> ranks: array<u32, THREADS>;
var<workgroup> range: vec2u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  if (thread == 0u) { range = vec2u(clamp(vec2i(load_offsets(b), load_offsets(b + 1u)), vec2i(0), vec2i(i32(p.tokens)))); }
  let tokens = workgroupUniformLoad(&range);  // uniform also where offsets share a buffer that is written
  let begin = tokens.x;
  let end = tokens.y;
  let blocks = (max(end, begin) - begin + THREADS - 1u) / THREADS;
  var count = 0u;
  for (var block = 0u; block < blocks; block++) {
    let t = begin + block * THREADS + thread;
    var active_ = t < end;
    if (HAS_MASK && active_) { active_ = load_mask(t) != 0; }
    ranks[thread] = select(0u, 1u, active_);
    workgroupBarrier();
    for (var step = 1u; step < THREADS; step *= 2u) {
      var sum = ranks[thread];
      if (thread >= step) { sum += ranks[thread - step]; }
      workgroupBarrier();
      ranks[thread] = sum;
      workgroupBarrier();
    }
    if (active_) { store_order(begin + count + ranks[thread] - 1u, i32(t)); }
    if (t < end && !active_) {
      store_gradLogProbs(t, 0.0);
      if (HAS_GRAD_ENTROPY) { store_gradEntropy(t, 0.0); }
    }
    count += ranks[THREADS - 1u];
    workgroupBarrier();
  }
  if (thread == 0u) { store_order(p.tokens + b, i32(count)); }
}
