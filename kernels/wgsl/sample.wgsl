// sample: a workgroup of THREADS a row. Weights exp((logit - max) / temperature), at most 1, are summed as whole numbers of
// 2^-39, so that sums are exact and no result depends on their order; the token is the first whose running sum exceeds
// the share of the total that Philox gives. Filters (topK, topP, minP) keep the tokens from a logit or weight on.

const LIMBS = 3u;         // a weight in three limbs of 13 bits: the sums of 2^19 limbs fit a word
const LIMB_BITS = 13u;
const BINS = 256u;

var<workgroup> bins: array<atomic<u32>, BINS * LIMBS>;
var<workgroup> sums: array<vec2u, BINS>;  // of bins, or of threads
var<workgroup> shared_word: u32;
var<workgroup> shared_sum: vec2u;

// Orders floats as unsigned integers; NaN is lowest, and no number has the order 0.
fn order(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0u; }
  if (bits == 0x80000000u) { return bits; }  // -0 is 0
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

const LOWEST = 0x007fffffu;   // the order of -infinity
const HIGHEST = 0xff800000u;  // the order of infinity

fn logit(row: u32, id: u32) -> f32 { return load_logits(row * p.logits_stride + id); }

fn join_word(a: u32, b: u32) -> u32 { return max(a, b); }

// What decides on a token: its logit's order and its weight.
struct Filter {
  most: u32,          // the order of the largest logit
  largest: f32,       // that logit
  from_order: u32,    // tokens below it have no weight
  min_weight: f32,
}

fn weight(x: f32, filter_: Filter) -> f32 {
  let place = order(x);
  if (place < filter_.from_order || place == 0u) { return 0.0; }
  if (filter_.most == HIGHEST || filter_.most == LOWEST) { return select(0.0, 1.0, place == HIGHEST); }
  if (place == LOWEST) { return 0.0; }
  if (place == filter_.most) { return 1.0; }
  let w = exp((x - filter_.largest) * p.inverseTemperature);
  return select(0.0, min(w, 1.0), w >= filter_.min_weight);
}

// A weight in units of 2^-39; 1 is 2^39 - 1, so that it fits the limbs.
fn units(w: f32) -> vec2u {
  if (w >= 1.0) { return vec2u(0xffffffffu, 0x7fu); }
  let bits = bitcast<u32>(w);
  if (bits < 0x2c000000u) { return vec2u(0u, 0u); }  // below 2^-39
  let mantissa = vec2u((bits & 0x7fffffu) | 0x800000u, 0u);
  let shift = i32(bits >> 23u) - 150 + 39;
  if (shift >= 0) { return shift_left_64(mantissa, u32(shift)); }
  return shift_right_64(mantissa, u32(-shift));
}

// The largest order such that the tokens from it on are `count` many or, with count 0, have the share topP of the mass. Found digit by digit from the top, with a histogram of masses each.
fn order_reaching(row: u32, thread: u32, filter_: Filter, count: u32) -> u32 {
  var prefix = 0u;
  var above = vec2u(0u, 0u);
  var wanted = vec2u(count, 0u);
  for (var shift = 24u; ; shift -= 8u) {
    workgroupBarrier();
    for (var i = thread; i < BINS * LIMBS; i += THREADS) { atomicStore(&bins[i], 0u); }
    workgroupBarrier();
    for (var id = thread; id < p.vocabulary; id += THREADS) {
      let x = logit(row, id);
      let place = order(x);
      if (shift < 24u && (place >> (shift + 8u)) != prefix) { continue; }
      let bin = ((place >> shift) & 255u) * LIMBS;
      if (count > 0u) {
        atomicAdd(&bins[bin], 1u);
        continue;
      }
      let mass = units(weight(x, filter_));
      let mask = (1u << LIMB_BITS) - 1u;
      let middle = shift_right_64(mass, LIMB_BITS).x & mask;
      let high = shift_right_64(mass, 2u * LIMB_BITS).x;
      if ((mass.x & mask) != 0u) { atomicAdd(&bins[bin], mass.x & mask); }
      if (middle != 0u) { atomicAdd(&bins[bin + 1u], middle); }
      if (high != 0u) { atomicAdd(&bins[bin + 2u], high); }
    }
    workgroupBarrier();
    for (var bin = thread; bin < BINS; bin += THREADS) {
      let first = bin * LIMBS;
      sums[bin] = sum_64(vec2u(atomicLoad(&bins[first]), 0u),
                         sum_64(shift_left_64(vec2u(atomicLoad(&bins[first + 1u]), 0u), LIMB_BITS),
                                shift_left_64(vec2u(atomicLoad(&bins[first + 2u]), 0u), 2u * LIMB_BITS)));
    }
    workgroupBarrier();
    if (thread == 0u) {
      if (shift == 24u && count == 0u) {
        var total = vec2u(0u, 0u);
        for (var bin = 0u; bin < BINS; bin++) { total = sum_64(total, sums[bin]); }
        // Rounded up: a sum reaches a share when it reaches the whole number above.
        let low = product_64(total.x, p.topPShare);
        wanted = sum_64(product_64(total.y, p.topPShare), vec2u(low.y, 0u));
        if (low.x != 0u) { wanted = sum_64(wanted, vec2u(1u, 0u)); }
      }
      var chosen = 0u;
      for (var bin = BINS; bin > 0u; ) {
        bin--;
        if (all(sums[bin] == vec2u(0u, 0u))) { continue; }
        chosen = bin;  // the lowest bin with mass, should rounding ask for more than there is
        let reached = sum_64(above, sums[bin]);
        if (!less_64(reached, wanted)) { break; }
        above = reached;
      }
      shared_word = chosen;
    }
    prefix = (prefix << 8u) | workgroupUniformLoad(&shared_word);
    if (shift == 0u) { break; }
  }
  return prefix;
}

// The token at share `uniform` (of 2^64) of the weights, 0 when all are 0.
fn draw(row: u32, thread: u32, filter_: Filter, uniform_: vec2u) -> u32 {
  var begin = 0u;
  var end = p.vocabulary;
  var target_ = vec2u(0u, 0u);  // what the running sum from `begin` on must exceed
  for (var round = 0u; ; round++) {
    let length = (end - begin + THREADS - 1u) / THREADS;  // tokens of a thread, next to each other
    let first = begin + thread * length;
    var sum = vec2u(0u, 0u);
    for (var id = first; id < min(first + length, end); id++) {
      sum = sum_64(sum, units(weight(logit(row, id), filter_)));
    }
    workgroupBarrier();
    sums[thread] = sum;
    workgroupBarrier();
    if (thread == 0u) {
      if (round == 0u) {
        var total = vec2u(0u, 0u);
        for (var i = 0u; i < THREADS; i++) { total = sum_64(total, sums[i]); }
        target_ = product_high_64(uniform_, total);
      }
      var chosen = 0u;
      for (; chosen < THREADS - 1u && !less_64(target_, sums[chosen]); chosen++) {
        target_ = difference_64(target_, sums[chosen]);
      }
      shared_word = chosen;
    }
    let chosen = workgroupUniformLoad(&shared_word);
    begin = begin + chosen * length;
    end = min(begin + length, end);
    if (length <= 1u) { break; }
  }
  return select(0u, begin, begin < p.vocabulary);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let row = workgroup_number(workgroup, workgroups);
  if (row >= p.rows) { return; }
  var most = 0u;
  for (var id = thread; id < p.vocabulary; id += THREADS) { most = max(most, order(logit(row, id))); }
  most = lanes_word(thread, most);

  var id = 0u;
  if (GREEDY) {
    var first = 0u;  // the complement of the lowest id: the largest word
    for (var i = thread; i < p.vocabulary; i += THREADS) {
      if (most != 0u && order(logit(row, i)) == most) { first = max(first, ~i); }
    }
    first = lanes_word(thread, first);
    id = select(0u, ~first, first != 0u);
  } else {
    let largest = select(most & 0x7fffffffu, ~most, most < 0x80000000u);
    var filter_ = Filter(most, bitcast<f32>(largest), 0u, 0.0);
    if (p.topK > 0u) { filter_.from_order = order_reaching(row, thread, filter_, p.topK); }
    if (TOP_P) { filter_.from_order = order_reaching(row, thread, filter_, 0u); }
    filter_.min_weight = p.minP;
    let key = row * p.keys_stride;
    let random = philox(vec2u(u32(load_keys(key)), u32(load_keys(key + 1u))),
                        vec4u(u32(load_keys(key + 2u)), u32(load_keys(key + 3u)), 0u, 0u));
    id = draw(row, thread, filter_, vec2u(random.y & 0xfffff800u, random.x));
  }
  if (thread == 0u) { store_ids(row, i32(id)); }
}
