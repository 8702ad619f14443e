// The softmax of a row of logits by a workgroup (docs/numerics.md, section 1): largest capped logit, and with
// d = (x - largest) / T the sums of exp(d) and exp(d) d. A part without finite logits has sum 0.

const EMPTY = -3.4028234e38;

struct Statistics { largest: f32, sum: f32, weighted: f32 }

var<workgroup> shared_largest: array<f32, THREADS>;
var<workgroup> shared_sum: array<f32, THREADS>;
var<workgroup> shared_weighted: array<f32, THREADS>;
var<workgroup> shared_bad: atomic<u32>;

fn capped(logit: f32) -> f32 {
  if (SOFTCAP) { return p.softcap * hyperbolic_tangent(logit / p.softcap).x; }
  return logit;
}

fn capped_slope(logit: f32) -> f32 {
  if (SOFTCAP) { return hyperbolic_tangent(logit / p.softcap).y; }
  return 1.0;
}

fn join_statistics(a: Statistics, b: Statistics) -> Statistics {
  if (b.sum == 0.0) { return a; }
  if (a.sum == 0.0) { return b; }
  let largest = max(a.largest, b.largest);
  let shift_a = (a.largest - largest) * p.inverseTemperature;
  let shift_b = (b.largest - largest) * p.inverseTemperature;
  let factor_a = exponential(shift_a);
  let factor_b = exponential(shift_b);
  return Statistics(largest, a.sum * factor_a + b.sum * factor_b,
                    select(0.0, (a.weighted + a.sum * shift_a) * factor_a, factor_a > 0.0) +
                    select(0.0, (b.weighted + b.sum * shift_b) * factor_b, factor_b > 0.0));
}

// Every thread gets the same. A sum of -1 says that a logit was NaN or infinite.
fn row_statistics(row: u32, thread: u32) -> Statistics {
  var own = Statistics(EMPTY, 0.0, 0.0);
  var bad = false;
  for (var i = thread; i < p.columns; i += THREADS) {
    let logit = load_logits(row * p.logits_stride + i);
    if (is_negative_infinity(logit) && !SOFTCAP) { continue; }
    if (is_nan_or_infinity(logit) && !(SOFTCAP && !is_nan(logit))) { bad = true; continue; }
    let x = capped(logit);
    if (x > own.largest || own.sum == 0.0) {
      let shift = (own.largest - x) * p.inverseTemperature;
      let factor = select(exponential(shift), 0.0, own.sum == 0.0);
      own = Statistics(x, own.sum * factor + 1.0, select(0.0, (own.weighted + own.sum * shift) * factor, factor > 0.0));
    } else {
      let d = (x - own.largest) * p.inverseTemperature;
      let e = exponential(d);
      own.sum += e;
      own.weighted += select(0.0, e * d, e > 0.0);
    }
  }
  if (thread == 0u) { atomicStore(&shared_bad, 0u); }
  workgroupBarrier();
  if (bad) { atomicStore(&shared_bad, 1u); }
  shared_largest[thread] = own.largest;
  shared_sum[thread] = own.sum;
  shared_weighted[thread] = own.weighted;
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread < half) {
      let other = thread + half;
      let joined = join_statistics(Statistics(shared_largest[thread], shared_sum[thread], shared_weighted[thread]),
                                   Statistics(shared_largest[other], shared_sum[other], shared_weighted[other]));
      shared_largest[thread] = joined.largest;
      shared_sum[thread] = joined.sum;
      shared_weighted[thread] = joined.weighted;
    }
  }
  workgroupBarrier();
  let sum = select(shared_sum[0], -1.0, atomicLoad(&shared_bad) != 0u);
  let all = Statistics(shared_largest[0], sum, shared_weighted[0]);
  workgroupBarrier();
  return all;
}

fn row_entropy(all: Statistics) -> f32 { return max(0.0, logarithm(all.sum) - all.weighted / all.sum); }
