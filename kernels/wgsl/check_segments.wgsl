// Reports the first segment of cachedAttention that does not fit. One workgroup.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;

fn outside(start: i32, length: i32) -> bool {
  return start < 0 || length < 0 || start > i32(p.cached) || length > i32(p.cached) - start;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.rows); }
  workgroupBarrier();
  for (var i = thread; i < p.rows; i += THREADS) {
    let at = i * p.segments_stride;
    let prefix = load_segments(at + 1u);
    let own = load_segments(at + 3u);
    if (outside(load_segments(at), prefix) || outside(load_segments(at + 2u), own) || prefix + own == 0 ||
        u32(prefix + own) > p.maxLength) {
      atomicMin(&first_bad, i);
      break;
    }
  }
  workgroupBarrier();
  let bad = atomicLoad(&first_bad);
  if (thread != 0u || bad >= p.rows) { return; }
  let at = bad * p.segments_stride;
  fail(1, bad, vec4i(load_segments(at), load_segments(at + 1u), load_segments(at + 2u), load_segments(at + 3u)));
}
