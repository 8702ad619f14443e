@compute @workgroup_size(THREADS)
fn main(invocation: Invocation) {
  let thread = thread_number(invocation);
  var sum = Wide(vec2u(0u, 0u), ZERO_EXPONENT);
  for (var i = thread; i < p.chunks; i += THREADS) {
    sum = add_wide(sum, Wide(vec2u(u32(load_partials(4u * i)), u32(load_partials(4u * i + 1u))), load_partials(4u * i + 2u)));
  }
  sum = workgroup_sum(thread, sum);
  if (thread == 0u) { store_norm(0u, bitcast<f32>(root(sum))); }
}
