// statistics[n,a] = (logSumExp, gradOut out) of a row and head: what both gradients of attention need. A thread each.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 64u + thread;
  if (i >= p.total * p.heads) { return; }
  let row = i / p.heads;
  let head = i % p.heads;
  let out = row * p.out_stride + head * p.headDim;
  let grad = row * p.gradOut_stride + head * p.headDim;
  var delta = 0.0;
  for (var d = 0u; d < p.headDim; d++) { delta = fma(load_gradOut(grad + d), load_out(out + d), delta); }
  store_statistics(2u * i, load_logSumExp(row * p.logSumExp_stride + head));
  store_statistics(2u * i + 1u, delta);
}
