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

// Four logits of a thread, so that their loads are under way together; neighbouring threads read neighbours. A logit that
// is not present is 0: beyond the row, impossible (minus infinity, which a soft cap makes finite) or broken.
struct FourLogits { columns: vec4u, values: vec4f, present: vec4<bool>, broken: vec4<bool> }

fn load_four(row: u32, first: u32) -> FourLogits {
  let columns = vec4u(first, first + THREADS, first + 2u * THREADS, first + 3u * THREADS);
  let places = row * p.logits_stride + min(columns, vec4u(p.columns - 1u));
  let logits = vec4f(load_logits(places.x), load_logits(places.y), load_logits(places.z), load_logits(places.w));
  let bits = bitcast<vec4u>(logits);
  let finite = vec4<bool>(SOFTCAP);
  let impossible = (bits == vec4u(0xff800000u)) & !finite;
  let broken = ((bits & vec4u(0x7fffffffu)) > vec4u(0x7f800000u)) | ((bits == vec4u(0x7f800000u)) & !finite);
  let present = (columns < vec4u(p.columns)) & !impossible & !broken;
  return FourLogits(columns, select(vec4f(0.0), logits, present), present, broken);
}

fn capped_four(x: vec4f) -> vec4f {
  if (SOFTCAP) { return vec4f(capped(x.x), capped(x.y), capped(x.z), capped(x.w)); }
  return x;
}

fn exponential_four(x: vec4f) -> vec4f {
  return vec4f(exponential(x.x), exponential(x.y), exponential(x.z), exponential(x.w));
}

fn sum_four(x: vec4f) -> f32 { return (x.x + x.y) + (x.z + x.w); }

// Every thread gets the same.
fn row_statistics(row: u32, thread: u32) -> Statistics {
  var own = Statistics(EMPTY, 0.0, 0.0);
  var bad = false;
  for (var first = thread; first < p.columns; first += 4u * THREADS) {
    let logits = load_four(row, first);
    bad = bad || any(logits.broken);
    let x = capped_four(logits.values);
    let most = select(vec4f(EMPTY), x, logits.present);
    let largest = max(max(most.x, most.y), max(most.z, most.w));
    if (largest > own.largest || own.sum == 0.0) {
      let shift = (own.largest - largest) * p.inverseTemperature;
      let factor = select(exponential(shift), 0.0, own.sum == 0.0);
      own = Statistics(largest, own.sum * factor, select(0.0, (own.weighted + own.sum * shift) * factor, factor > 0.0));
    }
    let d = (select(vec4f(own.largest), x, logits.present) - own.largest) * p.inverseTemperature;
    let e = select(vec4f(0.0), exponential_four(d), logits.present);
    own.sum += sum_four(e);
    own.weighted += sum_four(select(vec4f(0.0), e * d, e > vec4f(0.0)));
  }
  if (bad) { own.sum = -1.0; }
  let all = lanes_statistics(thread, vec3f(own.largest, own.sum, own.weighted));
  return Statistics(all.x, all.y, all.z);
}

fn row_entropy(all: Statistics) -> f32 { return max(0.0, logarithm(all.sum) - all.weighted / all.sum); }
