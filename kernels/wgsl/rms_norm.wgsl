// rmsNorm: out = in * inverseRms * weight over groups of D adjacent elements. LANES threads share a group.

const GROUPS = THREADS / LANES;  // groups of a workgroup
var<workgroup> partials: array<f32, THREADS>;

// The sum of `value` over the threads of a group, in the order of the threads.
fn group_sum(thread: u32, value: f32) -> f32 {
  workgroupBarrier();
  partials[thread] = value;
  workgroupBarrier();
  let first = thread / LANES * LANES;
  var sum = 0.0;
  for (var i = 0u; i < LANES; i++) { sum += partials[first + i]; }
  return sum;
}

// Group g of a row-major [rows, columns] tensor: the place of its first element.
fn group_place(group: u32, stride: u32) -> u32 {
  let each = p.columns / p.group;
  return group / each * stride + group % each * p.group;
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
           @builtin(local_invocation_index) thread: u32) {
  let group = workgroup_number(workgroup, workgroups) * GROUPS + thread / LANES;
  let lane = thread % LANES;
  let exists = group < p.groups;
  let from = group_place(group, p.in_stride);
  var square = 0.0;
  if (exists) {
    for (var i = lane; i < p.group; i += LANES) {
      let x = load_in(from + i);
      square = fma(x, x, square);
    }
  }
  let inverse = 1.0 / sqrt(group_sum(thread, square) / f32(p.group) + p.epsilon);
  if (!exists) { return; }
  if (HAS_INVERSE_RMS && lane == 0u) { store_inverseRms(group, inverse); }
  let to = group_place(group, p.out_stride);
  for (var i = lane; i < p.group; i += LANES) {
    store_out(to + i, load_in(from + i) * inverse * load_weight(i));
  }
}
