// embedding: out[n] = table[ids[n]]. A thread an element.

@compute @workgroup_size(256)
fn forward(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
           @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.rows * p.columns) { return; }
  let row = i / p.columns;
  let column = i % p.columns;
  store_out(row * p.out_stride + column, load_table(u32(load_ids(row)) * p.table_stride + column));
}
