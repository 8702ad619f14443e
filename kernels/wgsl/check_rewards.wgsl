// Reports the first reward that is infinite. One workgroup.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.count); }
  workgroupBarrier();
  for (var i = thread; i < p.count; i += THREADS) {
    if ((bitcast<u32>(load_rewards(i)) & 0x7fffffffu) == 0x7f800000u) { atomicMin(&first_bad, i); }
  }
  workgroupBarrier();
  let bad = atomicLoad(&first_bad);
  if (thread == 0u && bad < p.count) { fail(1, bad, vec4i(bitcast<i32>(load_rewards(bad)), 0, 0, 0)); }
}
