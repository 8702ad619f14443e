@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.rows * p.columns) { return; }
  let row = i / p.columns;
  let column = i % p.columns;
  let gate = load_gate(row * p.gate_stride + column);
  store_out(row * p.out_stride + column, gate * sigmoid(gate) * load_up(row * p.up_stride + column));
}
