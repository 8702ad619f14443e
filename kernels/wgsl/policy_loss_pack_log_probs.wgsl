// Log-prob, log ratio, reference less policy, old less rollout, rollout less policy.

fn pack(at: u32, token: u32, sequence: u32) {
  let log_prob = load_logProbs(token);
  var old = log_prob;
  if (HAS_OLD) { old = load_oldLogProbs(token); }
  store_values(at, log_prob);
  store_values(at + 1u, log_prob - old);
  if (HAS_REFERENCE) { store_values(at + 2u, load_refLogProbs(token) - log_prob); }
  if (HAS_ROLLOUT) {
    let rollout = load_rolloutLogProbs(token);
    let known = !is_nan(rollout);  // NaN: the sampler gave none, and it counts as equal
    store_values(at + 3u, select(0.0, old - rollout, known));
    store_values(at + 4u, select(0.0, rollout - log_prob, known));
  }
}
