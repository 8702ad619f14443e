// The softmax of a row of logits by a workgroup (docs/numerics.md, section 1): largest capped logit, and with
// d = (x - largest) / T the sums of exp(d) and exp(d) d. A part without finite logits has sum 0.

const EMPTY = -3.4028234e38;

// A sum of -1 says that a logit was NaN or infinite.
struct Statistics { largest: f32, sum: f32, weighted: f32 }

fn capped(logit: f32) -> f32 {
  if (SOFTCAP) { return p.softcap * hyperbolic_tangent(logit / p.softcap).x; }
  return logit;
}

fn capped_slope(logit: f32) -> f32 {
  if (SOFTCAP) { return hyperbolic_tangent(logit / p.softcap).y; }
  return 1.0;
}

// Of (largest, sum, weighted).
fn join_statistics(a: vec3f, b: vec3f) -> vec3f {
  if (b.y == 0.0 || a.y < 0.0) { return a; }
  if (a.y == 0.0 || b.y < 0.0) { return b; }
  let largest = max(a.x, b.x);
  let shift_a = (a.x - largest) * p.inverseTemperature;
  let shift_b = (b.x - largest) * p.inverseTemperature;
  let factor_a = exponential(shift_a);
  let factor_b = exponential(shift_b);
  return vec3f(largest, a.y * factor_a + b.y * factor_b,
               select(0.0, (a.z + a.y * shift_a) * factor_a, factor_a > 0.0) +
               select(0.0, (b.z + b.y * shift_b) * factor_b, factor_b > 0.0));
}

// Every thread gets the same.
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
  if (bad) { own.sum = -1.0; }
  let all = lanes_statistics(thread, vec3f(own.largest, own.sum, own.weighted));
  return Statistics(all.x, all.y, all.z);
}

fn row_entropy(all: Statistics) -> f32 { return max(0.0, logarithm(all.sum) - all.weighted / all.sum); }
