// entropyThreshold: one workgroup. The threshold is a quantile of the active tokens' entropies, interpolated linearly
// between two ranks, found a byte of the ordered bits at a time.

const THREADS = 256u;
var<workgroup> bins: array<atomic<u32>, THREADS>;
var<workgroup> shared_total: atomic<u32>;
var<workgroup> shared_rank: u32;
var<workgroup> shared_key: u32;

fn ordered(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) != 0u);
}

fn from_ordered(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) != 0u)); }

fn counts(t: u32) -> bool {
  if (HAS_MASK) { return load_mask(t) != 0; }
  return true;
}

// The value of a rank among the active tokens' entropies.
fn value_of_rank(rank: u32, thread: u32) -> f32 {
  if (thread == 0u) {
    shared_rank = rank;
    shared_key = 0u;
  }
  for (var byte = 0u; byte < 4u; byte++) {
    let shift = 24u - 8u * byte;
    atomicStore(&bins[thread], 0u);
    workgroupBarrier();
    let key = workgroupUniformLoad(&shared_key);
    for (var t = thread; t < p.tokens; t += THREADS) {
      if (!counts(t)) { continue; }
      let bits = ordered(load_entropy(t));
      if (byte == 0u || (bits >> (shift + 8u)) == (key >> (shift + 8u))) { atomicAdd(&bins[(bits >> shift) & 0xffu], 1u); }
    }
    workgroupBarrier();
    if (thread == 0u) {
      var left = shared_rank;
      var bin = 0u;
      loop {
        let size = atomicLoad(&bins[bin]);
        if (left < size || bin == 255u) { break; }
        left -= size;
        bin++;
      }
      shared_rank = left;
      shared_key = key | (bin << shift);
    }
    workgroupBarrier();
  }
  return from_ordered(workgroupUniformLoad(&shared_key));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var own = 0u;
  if (thread == 0u) { atomicStore(&shared_total, 0u); }
  workgroupBarrier();
  for (var t = thread; t < p.tokens; t += THREADS) { own += select(0u, 1u, counts(t)); }
  atomicAdd(&shared_total, own);
  workgroupBarrier();
  let active_ = atomicLoad(&shared_total);
  workgroupBarrier();
  let last = max(active_, 1u) - 1u;
  let position = p.quantile * f32(last);
  let rank = min(u32(position), last);
  let low = value_of_rank(rank, thread);
  let high = value_of_rank(min(rank + 1u, last), thread);
  let threshold = low + (high - low) * (position - f32(rank));
  if (thread == 0u) { atomicStore(&shared_total, 0u); }
  workgroupBarrier();
  var reaching = 0u;
  for (var t = thread; t < p.tokens; t += THREADS) {
    if (counts(t) && !(load_entropy(t) < threshold)) { reaching++; }
  }
  atomicAdd(&shared_total, reaching);
  workgroupBarrier();
  if (thread == 0u) {
    let some = active_ > 0u;
    store_threshold(0u, select(0.0, threshold, some));
    store_threshold(1u, select(0.0, f32(atomicLoad(&shared_total)) / f32(last + 1u), some));
  }
}
