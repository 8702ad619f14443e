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
