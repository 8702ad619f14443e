// The policy losses and their derivatives (docs/numerics.md, section 4): the twin of kernels/common/policy_loss.h.

const MAX_EXPONENT = 80.0;
const VESPO_MAX_LOG_RATIO = 20.0;
const VESPO_MIN_LOG_WEIGHT = -18.420681;

fn flag(x: u32) -> bool { return x != 0u; }

struct Objective { loss: f32, through_ratio: f32, through_log_prob: f32 }

fn ratio_of(log_ratio: f32) -> f32 { return exponential(min(log_ratio, MAX_EXPONENT)); }

// exp(x) - 1 - x.
fn exp_less_linear(x: f32) -> f32 {
  if (abs(x) < 0.5) {
    var q = 1.0 / 362880.0;
    q = fma(q, x, 1.0 / 40320.0);
    q = fma(q, x, 1.0 / 5040.0);
    q = fma(q, x, 1.0 / 720.0);
    q = fma(q, x, 1.0 / 120.0);
    q = fma(q, x, 1.0 / 24.0);
    q = fma(q, x, 1.0 / 6.0);
    q = fma(q, x, 0.5);
    return x * x * q;
  }
  return exponential(x) - 1.0 - x;
}

// Value, and derivative with respect to the log-prob.
fn kl_estimate(reference_less_policy: f32) -> vec2f {
  let x = min(reference_less_policy, MAX_EXPONENT);
  if (p.klEstimator == 0u) { return vec2f(-x, 1.0); }
  if (p.klEstimator == 1u) { return vec2f(x * x * 0.5, -x); }
  let k3 = exp_less_linear(x);
  return vec2f(k3, -(x + k3));
}

fn clipped_objective(ratio: f32, advantage: f32) -> Objective {
  let capped = select(ratio, min(ratio, p.delta), flag(p.hasDelta));
  let unclipped = capped * advantage;
  let clipped = clamp(ratio, p.low, p.high) * advantage;
  let slope = -advantage * ratio;
  let inside = ratio >= p.low && ratio <= p.high;
  let below_delta = !flag(p.hasDelta) || ratio <= p.delta;
  if (unclipped <= clipped) { return Objective(-unclipped, select(0.0, slope, below_delta), 0.0); }
  return Objective(-clipped, select(0.0, slope, inside), 0.0);
}

fn weighted_likelihood(weight: f32, advantage: f32, log_prob: f32) -> Objective {
  if (advantage == 0.0) { return Objective(0.0, 0.0, -weight * advantage); }
  return Objective(-weight * advantage * log_prob, 0.0, -weight * advantage);
}

fn sapo_objective(ratio: f32, advantage: f32) -> Objective {
  let temperature = select(p.sapoNegative, p.sapoPositive, advantage > 0.0);
  let y = temperature * (ratio - 1.0);
  let decay = exponential(-abs(y));
  let inverse = 1.0 / (1.0 + decay);
  let gate = select(decay * inverse, inverse, y > 0.0);
  return Objective(-4.0 * gate / temperature * advantage, -4.0 * decay * inverse * inverse * ratio * advantage, 0.0);
}

// phi(w) = exp(lambda) w^k exp(-lambda w), from log w.
fn vespo_phi(log_weight: f32, k: f32, lambda: f32) -> f32 {
  let least = max(lambda, 1e-4);
  let log_w = clamp(log_weight, VESPO_MIN_LOG_WEIGHT, VESPO_MAX_LOG_RATIO);
  return exponential(min(fma(k, log_w, least) - least * exponential(log_w), 88.0));
}

fn correction_weight(log_ratio: f32) -> f32 {
  let weight = ratio_of(log_ratio);
  if (p.correction == 1u || p.correction == 3u) { return min(max(weight, p.correctionMin), p.correctionCap); }
  return select(0.0, weight, weight >= p.correctionMin && weight <= p.correctionCap);
}

fn log_correction_weight(log_ratio: f32) -> f32 {
  var log_weight = VESPO_MIN_LOG_WEIGHT;
  if (p.correction == 1u) {
    log_weight = min(max(log_ratio, p.logCorrectionMin), p.logCorrectionCap);
  } else {
    let weight = ratio_of(log_ratio);
    if (weight >= p.correctionMin && weight <= p.correctionCap) { log_weight = log_ratio; }
  }
  return clamp(log_weight, VESPO_MIN_LOG_WEIGHT, VESPO_MAX_LOG_RATIO);
}
