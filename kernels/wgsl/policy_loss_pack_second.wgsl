// The fourth pass of policyLoss: entropy and advantage of each active token beside the values of the third.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  let begin = u32(clamp(load_offsets(b), 0, i32(p.tokens)));
  let count = u32(load_order(p.tokens + b));
  for (var i = thread; i < count; i += 64u) {
    let t = u32(load_order(begin + i));
    let at = 8u * (begin + i);
    if (HAS_ENTROPY) { store_values(at + 5u, load_entropy(t)); }
    store_values(at + 6u, load_advantages(select(t, b, SEQUENCE_ADVANTAGES)));
  }
}
