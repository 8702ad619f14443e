// The gradient of a norm's weight: the sum over groups of gradOut * in * inverseRms.

fn element(group: u32, i: u32) -> f32 {
  let each = p.columns / p.width;
  let row = group / each;
  let column = group % each * p.width + i;
  return load_gradOut(row * p.gradOut_stride + column) * (load_source(row * p.source_stride + column) * load_inverseRms(group));
}
fn put(chunk: u32, column: u32, sum: f32) { store_partials(chunk * p.width + column, sum); }
