// rmsNorm: out = in * inverseRms * weight over groups of D adjacent elements. LANES threads share a group.

const GROUPS = THREADS / LANES;  // groups of a workgroup

// Group g of a row-major [rows, columns] tensor: the place of its first element.
fn group_place(group: u32, stride: u32) -> u32 {
  let each = p.columns / p.group;
  return group / each * stride + group % each * p.group;
}
