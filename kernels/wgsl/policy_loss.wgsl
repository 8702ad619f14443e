// The fifth pass of policyLoss: a workgroup a sequence, a thread an active token at a time. Writes the gradients, and
// for each sequence its loss and statistics. results[b] = (loss, entropy acted on, sums and extremes in the order of
// src/kernels/policy-statistics.ts).

const SUMS = 16u;
const LOSS = 16u;  // sums beside those of the statistics
const ENTROPY = 17u;
const THROUGH_RATIO = 18u;
const RESULTS = 23u;  // loss, entropy acted on, 16 sums, 5 extremes
const LARGE = 3.4028234e38;

var<workgroup> shared_count: u32;

// Four sums at a time: what one costs is that the threads wait for each other. What is reduced in one place is compiled
// once.
fn join_sums(a: vec4f, b: vec4f) -> vec4f { return a + b; }
fn join_extremes(a: vec3f, b: vec3f) -> vec3f { return max(a, b); }

fn value(i: u32, which: u32) -> f32 { return load_values(8u * i + which); }

struct Terms { ratio: f32, correction: f32, phi_positive: f32, phi_negative: f32, near_policy: bool }

// What the tokens of a sequence share.
fn sequence_terms(begin: u32, count: u32, thread: u32) -> Terms {
  var terms = Terms(1.0, 1.0, 1.0, 1.0, true);
  var log_ratio = 0.0;
  var clamped = 0.0;
  var log_weight = 0.0;
  var divergence = 0.0;
  var difference = 0.0;
  for (var i = thread; i < count; i += THREADS) {
    let d = value(begin + i, 1u);
    log_ratio += d;
    clamped += clamp(d, -VESPO_MAX_LOG_RATIO, VESPO_MAX_LOG_RATIO);
    var away = -d;
    if (flag(p.hasRollout)) {
      let x = value(begin + i, 3u);
      away = value(begin + i, 4u);
      difference += x;
      if (p.lossType == 7u && p.correction != 0u) { log_weight += log_correction_weight(x); }
    }
    divergence += away;
  }
  let tokens = f32(max(count, 1u));
  let sums = lanes_sums(thread, vec4f(log_ratio, difference, clamped + log_weight, divergence));
  if (flag(p.sequenceLevel)) { terms.ratio = ratio_of(sums.x / tokens); }
  if (p.correction > 2u) { terms.correction = correction_weight(select(sums.y, sums.y / tokens, flag(p.geometric))); }
  if (p.lossType == 7u) {
    terms.phi_positive = vespo_phi(sums.z, p.vespoKPositive, p.vespoLambdaPositive);
    terms.phi_negative = vespo_phi(sums.z, p.vespoKNegative, p.vespoLambdaNegative);
  }
  if (flag(p.offPolicyMask)) { terms.near_policy = sums.w / tokens <= p.offPolicyThreshold; }
  return terms;
}

fn objective_of(terms: Terms, ratio: f32, advantage: f32, log_prob: f32) -> Objective {
  if (p.lossType == 5u) { return weighted_likelihood(min(ratio, p.high), advantage, log_prob); }
  if (p.lossType == 6u) { return sapo_objective(ratio, advantage); }
  if (p.lossType == 7u) {
    return weighted_likelihood(select(terms.phi_negative, terms.phi_positive, advantage >= 0.0), advantage, log_prob);
  }
  return clipped_objective(ratio, advantage);
}

fn loss_scale(count: u32, token_denominator: f32) -> f32 {
  if (p.lossType == 0u || p.lossType == 6u) { return 1.0 / (f32(max(count, 1u)) * p.sequenceDenominator); }
  if (p.lossType == 3u) { return 1.0 / (p.sequenceDenominator * p.maxCompletionLength); }
  if (p.lossType == 4u) { return 1.0 / p.sequenceDenominator; }
  return 1.0 / token_denominator;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let b = workgroup_number(workgroup, workgroups);
  if (b >= p.sequences) { return; }
  let begin = u32(clamp(load_offsets(b), 0, i32(p.tokens)));
  var count = u32(load_order(p.tokens + b));
  count = select(count, 0u, count > p.tokens);
  if (thread == 0u) { shared_count = count; }
  count = workgroupUniformLoad(&shared_count);
  let own_tokens = max(load_totals(0u), 1.0);
  let token_denominator = select(own_tokens, p.tokenDenominator, p.tokenDenominator > 0.0);
  let threshold = load_totals(1u);
  let acted_on = load_totals(2u);
  let entropy_gradient = select(0.0, -p.entropyCoefficient / (token_denominator * acted_on), acted_on > 0.0);
  let scale = loss_scale(count, token_denominator);
  let terms = sequence_terms(begin, count, thread);

  var sums: array<f32, SUMS + 4u>;
  var ratio_min = LARGE;
  var ratio_max = -LARGE;
  var difference_max = -LARGE;
  for (var i = thread; i < count; i += THREADS) {
    let at = begin + i;
    let t = u32(load_order(at));
    let log_prob = value(at, 0u);
    let d = value(at, 1u);
    let advantage = value(at, 6u);
    let ratio = select(ratio_of(d), terms.ratio, flag(p.sequenceLevel));
    let objective = objective_of(terms, ratio, advantage, log_prob);

    // The masks and the correction, as one weight.
    var weight = 1.0;
    var kept = true;
    if (flag(p.hasEntropy)) {
      let entropy = value(at, 5u);
      sums[3] += entropy;
      if (flag(p.highEntropy)) { kept = !(entropy < threshold); }
      if (kept) { sums[ENTROPY] += entropy; }
    }
    if (kept) { sums[9] += 1.0; } else { weight = 0.0; }
    if (flag(p.offPolicyMask) && !terms.near_policy && advantage < 0.0) {
      weight = 0.0;
      sums[8] += 1.0;
    }
    if (flag(p.hasRollout)) {
      let x = value(at, 3u);
      var correction = terms.correction;
      if (p.correction == 0u) { correction = ratio_of(x); } else if (p.correction < 3u) { correction = correction_weight(x); }
      sums[11] += abs(x);
      sums[12] += exp_less_linear(min(x, MAX_EXPONENT));
      sums[13] += correction;
      sums[14] += correction * correction;
      if (correction == 0.0) { sums[15] += 1.0; }
      difference_max = max(difference_max, abs(x));
      if (p.correction != 0u && p.lossType != 7u) { weight *= correction; }
    }

    // Select before multiplying: a dropped token's loss may be infinite.
    var token_loss = 0.0;
    var through_ratio = 0.0;
    var through_log_prob = 0.0;
    if (weight != 0.0) {
      token_loss = objective.loss * weight;
      through_ratio = objective.through_ratio * weight;
      through_log_prob = objective.through_log_prob * weight;
    }
    if (flag(p.hasReference)) {
      var kl = kl_estimate(value(at, 2u));
      if (flag(p.biasCorrectedKl)) {
        kl *= ratio;
        through_ratio += p.beta * kl.x;
      }
      sums[2] += kl.x;
      if (p.beta != 0.0) {
        token_loss += p.beta * kl.x;
        through_log_prob += p.beta * kl.y;
      }
    }
    sums[LOSS] += token_loss;
    if (flag(p.sequenceLevel)) {
      sums[THROUGH_RATIO] += through_ratio;
    } else {
      through_log_prob += through_ratio;
    }
    store_gradLogProbs(t, through_log_prob * scale);
    store_gradEntropy(t, select(0.0, entropy_gradient, kept));

    sums[4] += ratio;
    sums[5] += exp_less_linear(min(d, MAX_EXPONENT));
    if (ratio < p.low && advantage < 0.0) { sums[6] += 1.0; }
    if (flag(p.hasHigh) && ratio > p.high && advantage > 0.0) { sums[7] += 1.0; }
    sums[10] += select(terms.phi_negative, terms.phi_positive, advantage >= 0.0);
    ratio_min = min(ratio_min, ratio);
    ratio_max = max(ratio_max, ratio);
  }

  let at = b * RESULTS;
  var four = vec4f(0.0);
  var low_clipped = 0.0;
  var high_clipped = 0.0;
  for (var k = 0u; k <= SUMS; k += 4u) {
    four = lanes_sums(thread, vec4f(sums[k], sums[k + 1u], sums[k + 2u], sums[k + 3u]));
    if (k == 0u) { four = vec4f(f32(count), select(0.0, 1.0, count > 0u), four.zw); }
    if (k == 4u) {
      low_clipped = four.z;
      high_clipped = four.w;
    }
    if (thread == 0u && k < SUMS) {
      for (var j = 0u; j < 4u; j++) { store_results(at + 2u + k + j, four[j]); }
    }
  }
  // The last four: loss, entropy, what reaches the ratio of the sequence.
  if (thread == 0u) {
    store_results(at, four.x * scale);
    store_results(at + 1u, four.y);
  }
  if (flag(p.sequenceLevel)) {
    let share = four.z / f32(max(count, 1u)) * scale;
    storageBarrier();
    for (var i = thread; i < count; i += THREADS) {
      let t = u32(load_order(begin + i));
      store_gradLogProbs(t, load_gradLogProbs(t) + share);
    }
  }
  let extremes = lanes_extremes(thread, vec3f(-ratio_min, ratio_max, difference_max));
  if (thread == 0u) {
    let some = count > 0u;
    let tokens = f32(max(count, 1u));
    store_results(at + 18u, select(LARGE, -extremes.x, some));
    store_results(at + 19u, select(LARGE, low_clipped / tokens, some));
    store_results(at + 20u, select(-LARGE, extremes.y, some));
    store_results(at + 21u, select(-LARGE, high_clipped / tokens, some));
    store_results(at + 22u, extremes.z);
  }
}
