// tokenLogProbsBackward: a workgroup a row. With d = (x - shift) / T, everything but the target's g / T is
// exp(d) (d slope + intercept). A row of a whole vocabulary sums to zero, which gives the target's element without the
// cancellation of g (1 - p).

struct Gradient { shift: f32, slope: f32, intercept: f32 }

const SKIP = 0u;
const STORED = 1u;
const FRESH = 2u;
var<workgroup> shared_mode: u32;

fn from_stored(row: u32, g: f32, h: f32) -> Gradient {
  var entropy = 0.0;
  if (HAS_ENTROPY) { entropy = load_entropy(row); }
  return Gradient(load_logSumExp(row) / p.inverseTemperature, -h * p.inverseTemperature,
                  (-h * entropy - g) * p.inverseTemperature);
}

fn from_statistics(all: Statistics, g: f32, h: f32) -> Gradient {
  let scale = p.inverseTemperature / all.sum;
  return Gradient(all.largest, -h * scale, (h * (all.weighted / all.sum) - g) * scale);
}

fn element(x: f32, gradient: Gradient) -> f32 {
  let d = (x - gradient.shift) * p.inverseTemperature;
  let e = exponential(d);
  return select(0.0, e * (d * gradient.slope + gradient.intercept), e > 0.0);
}

fn element_four(x: vec4f, gradient: Gradient) -> vec4f {
  return vec4f(element(x.x, gradient), element(x.y, gradient), element(x.z, gradient), element(x.w, gradient));
}

fn capped_slope_four(x: vec4f) -> vec4f {
  if (SOFTCAP) { return vec4f(capped_slope(x.x), capped_slope(x.y), capped_slope(x.z), capped_slope(x.w)); }
  return vec4f(1.0);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let row = workgroup_number(workgroup, workgroups);
  if (row >= p.rows) { return; }
  let g = load_gradLogProbs(row);
  var h = 0.0;
  if (HAS_GRAD_ENTROPY) { h = load_gradEntropy(row); }
  if (thread == 0u) {
    let fresh = WHOLE && (h != 0.0 || !(abs(load_logSumExp(row)) <= 64.0));
    shared_mode = select(select(STORED, FRESH, fresh), SKIP, g == 0.0 && h == 0.0);
  }
  let mode = workgroupUniformLoad(&shared_mode);
  if (mode == SKIP) {
    for (var i = thread; i < p.columns; i += THREADS) { store_gradLogits(row * p.gradLogits_stride + i, 0.0); }
    return;
  }
  var gradient = from_stored(row, g, h);
  var usable = !is_nan_or_infinity(load_logSumExp(row));
  if (mode == FRESH) {
    let all = row_statistics(row, thread);
    usable = all.sum > 0.0;
    gradient = from_statistics(all, g, h);
  }
  let target_ = u32(load_targets(row) - i32(p.vocabStart));
  var target_logit = 0.0;
  if (target_ < p.columns) { target_logit = load_logits(row * p.logits_stride + target_); }
  workgroupBarrier();  // in place: all have read it

  var others = 0.0;
  for (var first = thread; first < p.columns; first += 4u * THREADS) {
    let logits = load_four(row, first);
    let values = select(vec4f(0.0), element_four(capped_four(logits.values), gradient), logits.present);
    let stored = (logits.columns < vec4u(p.columns)) & (logits.columns != vec4u(target_));
    others += sum_four(select(vec4f(0.0), values, stored));
    let gradients = select(vec4f(p.nan), values * capped_slope_four(logits.values), usable);
    let places = row * p.gradLogits_stride + logits.columns;
    if (stored.x) { store_gradLogits(places.x, gradients.x); }
    if (stored.y) { store_gradLogits(places.y, gradients.y); }
    if (stored.z) { store_gradLogits(places.z, gradients.z); }
    if (stored.w) { store_gradLogits(places.w, gradients.w); }
  }
  others = lanes_sum(thread, others);
  if (thread == 0u && target_ < p.columns) {
    let impossible = is_negative_infinity(target_logit) && !SOFTCAP;
    let logit = select(target_logit, 0.0, impossible);
    var value = -others;
    if (!WHOLE) {
      value = g * p.inverseTemperature;
      if (!impossible) { value += element(capped(logit), gradient); }
    }
    store_gradLogits(row * p.gradLogits_stride + target_, select(p.nan, value * capped_slope(logit), usable));
  }
}
