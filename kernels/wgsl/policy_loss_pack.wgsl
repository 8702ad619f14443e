// A pass of policyLoss over the active tokens, a workgroup a sequence. The file beside it gives `pack(at, token,
// sequence)`, which lays out some of the 8 values from `at` on that the loss needs of a token.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  let begin = u32(clamp(load_offsets(b), 0, i32(p.tokens)));
  let count = u32(load_order(p.tokens + b));
  for (var i = thread; i < count; i += 64u) { pack(8u * (begin + i), u32(load_order(begin + i)), b); }
}
