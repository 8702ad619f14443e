@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.rows * p.columns) { return; }
  let row = i / p.columns;
  let column = i % p.columns;
  let gate = load_gate(row * p.gate_stride + column);
  let up = load_up(row * p.up_stride + column);
  let grad = load_gradOut(row * p.gradOut_stride + column);
  let share = sigmoid(gate);
  store_gradGate(row * p.gradGate_stride + column, grad * up * share * (1.0 + gate * sigmoid(-gate)));
  store_gradUp(row * p.gradUp_stride + column, grad * gate * share);
}
