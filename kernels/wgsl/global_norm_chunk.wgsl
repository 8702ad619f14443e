@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let chunk = workgroup_number(workgroup, workgroups);
  if (chunk * THREADS * EACH >= p.count) { return; }
  var sum = Wide(vec2u(0u, 0u), ZERO_EXPONENT);
  for (var i = 0u; i < EACH; i++) {
    let at = (chunk * EACH + i) * THREADS + thread;
    if (at < p.count) { sum = add_wide(sum, square(load_source(at))); }
  }
  sum = workgroup_sum(thread, sum);
  if (thread != 0u) { return; }
  store_partials(4u * chunk, i32(sum.mantissa.x));
  store_partials(4u * chunk + 1u, i32(sum.mantissa.y));
  store_partials(4u * chunk + 2u, sum.exponent);
}
