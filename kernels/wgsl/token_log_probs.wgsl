// tokenLogProbs: a workgroup a row.

var<workgroup> shared_masked: u32;  // uniform also where the mask shares a buffer that is written

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let row = workgroup_number(workgroup, workgroups);
  if (row >= p.rows) { return; }
  if (HAS_MASK) {
    if (thread == 0u) { shared_masked = u32(load_mask(row) == 0); }
    if (workgroupUniformLoad(&shared_masked) != 0u) {
      if (thread == 0u) {
        store_logProbs(row, 0.0);
        if (HAS_ENTROPY) { store_entropy(row, 0.0); }
        if (HAS_LOG_SUM_EXP) { store_logSumExp(row, 0.0); }
      }
      return;
    }
  }
  let all = row_statistics(row, thread);
  let target_ = u32(load_targets(row));
  if (thread != 0u || target_ >= p.columns) { return; }
  let logit = load_logits(row * p.logits_stride + target_);
  let usable = all.sum > 0.0;
  let log_sum = logarithm(select(1.0, all.sum, usable));
  let impossible = is_negative_infinity(logit) && !SOFTCAP;
  let log_prob = (capped(select(logit, 0.0, impossible)) - all.largest) * p.inverseTemperature - log_sum;
  store_logProbs(row, select(p.nan, select(min(log_prob, 0.0), p.negativeInfinity, impossible), usable));
  if (HAS_ENTROPY) { store_entropy(row, select(p.nan, row_entropy(all), usable)); }
  if (HAS_LOG_SUM_EXP) { store_logSumExp(row, select(p.nan, all.largest * p.inverseTemperature + log_sum, usable)); }
}
