// adamw: two parameters a thread. The formula is that of kernels/common/adamw.h.

fn finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (i >= p.count) { return; }
  var clip = 1.0;
  if (HAS_NORM) {
    let norm = load_norm(0u);
    if (!finite(norm)) { return; }
    if (p.maxNorm > 0.0) { clip = min(1.0, p.maxNorm / (norm + 1e-6)); }
  }
  let gradient = load_gradients(i) * clip;
  var first = load_firstMoment(i);
  first += (gradient - first) * p.newFirst;
  let second = load_secondMoment(i) * p.oldSecond + gradient * gradient * p.newSecond;
  let parameter = load_parameters(i) * p.kept - first / (sqrt(second) / p.correctionRoot + p.epsilon) * p.stepSize;
  store_firstMoment(i, first);
  store_secondMoment(i, second);
  store_parameters(i, parameter);
  if (HAS_MODEL_WEIGHTS) { store_modelWeights(i, parameter); }
}
