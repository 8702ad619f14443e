@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let group = workgroup_number(workgroup, workgroups) * GROUPS + thread / LANES;
  let lane = thread % LANES;
  let exists = group < p.groups;
  let source_at = group_place(group, p.source_stride);
  var square = 0.0;
  if (exists) {
    for (var i = lane; i < p.group; i += LANES) {
      let x = load_source(source_at + i);
      square = fma(x, x, square);
    }
  }
  let inverse = 1.0 / sqrt(lanes_sum(thread, square) / f32(p.group) + p.epsilon);
  if (!exists) { return; }
  if (HAS_INVERSE_RMS && lane == 0u) { store_inverseRms(group, inverse); }
  let to = group_place(group, p.out_stride);
  for (var i = lane; i < p.group; i += LANES) {
    store_out(to + i, load_source(source_at + i) * inverse * load_weight(i));
  }
}
