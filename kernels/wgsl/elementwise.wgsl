// A thread an element of rows of `columns`. The file beside it gives `element(row, column)`.

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.count) { return; }
  element(i / p.columns, i % p.columns);
}
