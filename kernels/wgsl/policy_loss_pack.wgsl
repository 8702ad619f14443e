// The third pass of policyLoss: a thread an active token. Lays out what the loss needs of it, next to each other:
// log-prob, log ratio, reference less policy, old less rollout, rollout less policy.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  let begin = u32(clamp(load_offsets(b), 0, i32(p.tokens)));
  let count = u32(load_order(p.tokens + b));
  for (var i = thread; i < count; i += 64u) {
    let t = u32(load_order(begin + i));
    let log_prob = load_logProbs(t);
    var old = log_prob;
    if (HAS_OLD) { old = load_oldLogProbs(t); }
    let at = 8u * (begin + i);
    store_values(at, log_prob);
    store_values(at + 1u, log_prob - old);
    if (HAS_REFERENCE) { store_values(at + 2u, load_refLogProbs(t) - log_prob); }
    if (HAS_ROLLOUT) {
      let rollout = load_rolloutLogProbs(t);
      let known = !is_nan(rollout);  // NaN: the sampler gave none, and it counts as equal
      store_values(at + 3u, select(0.0, old - rollout, known));
      store_values(at + 4u, select(0.0, rollout - log_prob, known));
    }
  }
}
