// With x^ = in * r, r the inverse rms, and y = gradOut * weight: gradIn = r (y - x^ mean(y x^)).

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let group = workgroup_number(workgroup, workgroups) * GROUPS + thread / LANES;
  let lane = thread % LANES;
  let exists = group < p.groups;
  let source_at = group_place(group, p.source_stride);
  let grad = group_place(group, p.gradOut_stride);
  var product = 0.0;
  if (exists) {
    for (var i = lane; i < p.group; i += LANES) {
      product = fma(load_gradOut(grad + i) * load_weight(i), load_source(source_at + i), product);
    }
  }
  let total = lanes_sum(thread, product);
  if (!exists) { return; }
  let r = load_inverseRms(group);
  let mean = total * r / f32(p.group);
  let to = group_place(group, p.gradIn_stride);
  for (var i = lane; i < p.group; i += LANES) {
    let y = load_gradOut(grad + i) * load_weight(i);
    var result = r * fma(-load_source(source_at + i) * r, mean, y);
    if (ACCUMULATE) { result += load_gradIn(to + i); }
    store_gradIn(to + i, result);
  }
}
