// Reports the first index outside [0, limit). One workgroup.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.count); }
  workgroupBarrier();
  for (var i = thread; i < p.count; i += THREADS) {
    if (u32(load_indices(i)) >= p.limit) {
      atomicMin(&first_bad, i);
      break;
    }
  }
  workgroupBarrier();
  let bad = atomicLoad(&first_bad);
  if (thread == 0u && bad < p.count) { fail(1, bad, vec4i(load_indices(bad), 0, 0, 0)); }
}
