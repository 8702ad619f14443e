// tokenLogProbsPartial: a workgroup a row of a slice of the vocabulary.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let row = workgroup_number(workgroup, workgroups);
  if (row >= p.rows) { return; }
  let all = row_statistics(row, thread);
  if (thread != 0u) { return; }
  let broken = all.sum < 0.0;
  let nothing = all.sum == 0.0;
  store_partial(4u * row, select(all.largest * p.inverseTemperature, p.negativeInfinity, nothing));
  store_partial(4u * row + 1u, select(all.sum, p.nan, broken));
  store_partial(4u * row + 2u, select(all.weighted, p.nan, broken));
  let target_ = u32(load_targets(row) - i32(p.vocabStart));
  var z = 0.0;
  if (target_ < p.columns) {
    let logit = load_logits(row * p.logits_stride + target_);
    let impossible = is_negative_infinity(logit) && !SOFTCAP;
    z = select(capped(select(logit, 0.0, impossible)) * p.inverseTemperature, p.negativeInfinity, impossible);
  }
  store_partial(4u * row + 3u, z);
}
