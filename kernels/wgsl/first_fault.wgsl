// Reports the first of `count` elements that is not good. One workgroup. The file beside it gives `good(i)`, and in
// `found(i)` what to report of element i.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.count); }
  workgroupBarrier();
  for (var i = thread; i < p.count; i += THREADS) {
    if (!good(i)) {
      atomicMin(&first_bad, i);
      break;
    }
  }
  workgroupBarrier();
  let bad = atomicLoad(&first_bad);
  if (thread == 0u && bad < p.count) { fail(1, bad, vec4i(found(bad), 0, 0, 0)); }
}
