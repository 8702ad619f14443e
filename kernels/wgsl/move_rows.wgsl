// gatherRows, embedding: out[i] = source[indices[i]]. scatterRows: out[indices[i]] = source[i]. A thread an element.

fn element(row: u32, column: u32) {
  let index = u32(load_indices(row));
  if (index >= p.limit) { return; }  // check_indices.wgsl has reported it
  let source_at = select(row, index, GATHER);
  let to = select(index, row, GATHER);
  store_out(to * p.out_stride + column, load_source(source_at * p.source_stride + column));
}
