// The first pass of policyLoss: a workgroup a sequence. Puts its active tokens next to each other, so that sums over
// them do not depend on where masked tokens stand, and sets the gradients of masked tokens to 0. `order` has the
// place of each active token, and behind the N places the number of active tokens of each sequence. A thread has tokens
// that follow each other: the threads wait for each other once a sequence, not for each block of tokens.

const THREADS = 64u;
var<workgroup> ranks: array<u32, THREADS>;

fn active_token(t: u32) -> bool {
  if (HAS_MASK) { return load_mask(t) != 0; }
  return true;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  let begin = u32(clamp(load_offsets(b), 0, i32(p.tokens)));
  let end = max(begin, u32(clamp(load_offsets(b + 1u), 0, i32(p.tokens))));
  let each = (end - begin + THREADS - 1u) / THREADS;
  let first = min(begin + thread * each, end);
  let last = min(first + each, end);
  var own = 0u;
  for (var t = first; t < last; t++) { own += select(0u, 1u, active_token(t)); }
  ranks[thread] = own;
  workgroupBarrier();
  for (var step = 1u; step < THREADS; step *= 2u) {
    var sum = ranks[thread];
    if (thread >= step) { sum += ranks[thread - step]; }
    workgroupBarrier();
    ranks[thread] = sum;
    workgroupBarrier();
  }
  var place = begin + ranks[thread] - own;
  for (var t = first; t < last; t++) {
    if (active_token(t)) {
      store_order(place, i32(t));
      place++;
    } else {
      store_gradLogProbs(t, 0.0);
      if (HAS_GRAD_ENTROPY) { store_gradEntropy(t, 0.0); }
    }
  }
  if (thread == THREADS - 1u) { store_order(p.tokens + b, i32(ranks[thread])); }
}
