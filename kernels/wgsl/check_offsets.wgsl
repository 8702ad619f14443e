// Reports offsets that do not begin at 0, fall, or do not end at `total`. One workgroup.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.count); }
  workgroupBarrier();
  for (var i = thread; i < p.count; i += THREADS) {
    let offset = load_offsets(i);
    var good = offset >= 0;
    if (i == 0u) { good = offset == 0; } else { good = offset >= load_offsets(i - 1u); }
    if (i + 1u == p.count) { good = good && offset == i32(p.total); }
    if (!good) { atomicMin(&first_bad, i); }
  }
  workgroupBarrier();
  let bad = atomicLoad(&first_bad);
  if (thread == 0u && bad < p.count) { fail(1, bad, vec4i(load_offsets(bad), 0, 0, 0)); }
}
