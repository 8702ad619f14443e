// tokenLogProbsMerge: a thread a row. Slices are joined from the smallest maximum to the largest, so that their order
// among the partials changes no bit.

struct Part { largest: f32, sum: f32, weighted: f32 }

fn part(slice: u32, row: u32) -> Part {
  let at = 4u * (slice * p.rows + row);
  return Part(load_partials(at), load_partials(at + 1u), load_partials(at + 2u));
}

// Order of the joins: by value, then by slice among equals.
fn before(a: Part, slice_a: u32, b: Part, slice_b: u32) -> bool {
  if (a.largest != b.largest) { return a.largest < b.largest; }
  if (a.sum != b.sum) { return a.sum < b.sum; }
  if (a.weighted != b.weighted) { return a.weighted < b.weighted; }
  return slice_a < slice_b;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = workgroup_number(workgroup, workgroups) * 64u + thread;
  if (row >= p.rows) { return; }
  var target_z = 0.0;
  var impossible = false;
  var broken = false;
  var joined = Part(0.0, 0.0, 0.0);
  var last = Part(0.0, 0.0, 0.0);
  var last_slice = 0u;
  for (var place = 0u; place < p.slices; place++) {
    var next = Part(0.0, 0.0, 0.0);
    var next_slice = p.slices;
    for (var slice = 0u; slice < p.slices; slice++) {
      let candidate = part(slice, row);
      if (is_nan(candidate.sum)) { broken = true; }
      if (place > 0u && !before(last, last_slice, candidate, slice)) { continue; }
      if (next_slice == p.slices || before(candidate, slice, next, next_slice)) {
        next = candidate;
        next_slice = slice;
      }
    }
    if (next_slice == p.slices) { break; }
    last = next;
    last_slice = next_slice;
    let z = load_partials(4u * (next_slice * p.rows + row) + 3u);
    if (is_negative_infinity(z)) { impossible = true; } else { target_z += z; }
    if (next.sum == 0.0) { continue; }
    if (joined.sum == 0.0) { joined = next; continue; }
    let shift = joined.largest - next.largest;  // at most 0
    let factor = exponential(shift);
    joined = Part(next.largest, joined.sum * factor + next.sum,
                  select(0.0, (joined.weighted + joined.sum * shift) * factor, factor > 0.0) + next.weighted);
  }
  let usable = joined.sum > 0.0 && !broken;
  let log_sum = logarithm(select(1.0, joined.sum, usable));
  let log_prob = min(0.0, target_z - joined.largest - log_sum);
  store_logProbs(row, select(p.nan, select(log_prob, p.negativeInfinity, impossible), usable));
  if (HAS_ENTROPY) { store_entropy(row, select(p.nan, max(0.0, log_sum - joined.weighted / select(1.0, joined.sum, usable)), usable)); }
  if (HAS_LOG_SUM_EXP) { store_logSumExp(row, select(p.nan, joined.largest + log_sum, usable)); }
}
