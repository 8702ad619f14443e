// The second pass of policyLoss: one workgroup. totals = (active tokens, the entropy that the high-entropy mask keeps
// from, the share of tokens that reach it).

const THREADS = 256u;
var<workgroup> shared_total: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var own = 0u;
  for (var b = thread; b < p.sequences; b += THREADS) { own += u32(load_order(p.tokens + b)); }
  atomicAdd(&shared_total, own);
  workgroupBarrier();
  if (thread == 0u) {
    store_totals(0u, f32(atomicLoad(&shared_total)));
    store_totals(1u, select(0.0, load_threshold(0u), HAS_THRESHOLD));
    store_totals(2u, select(1.0, load_threshold(1u), HAS_THRESHOLD));
  }
}
