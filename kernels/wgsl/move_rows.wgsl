// gatherRows, embedding: out[i] = source[indices[i]]. scatterRows: out[indices[i]] = source[i]. A thread an element.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.rows * p.columns) { return; }
  let row = i / p.columns;
  let column = i % p.columns;
  let index = u32(load_indices(row));
  if (index >= p.limit) { return; }  // check_indices.wgsl has reported it
  let source_at = select(row, index, GATHER);
  let to = select(index, row, GATHER);
  store_out(to * p.out_stride + column, load_source(source_at * p.source_stride + column));
}
