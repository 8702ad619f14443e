// The last pass of policyLoss: joins the results of the sequences in their order. A thread a result.

const RESULTS = 23u;
const LARGE = 3.4028234e38;
var<workgroup> joined: array<f32, 32>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread < RESULTS) {
    let minimum = thread == 18u || thread == 19u;
    let maximum = thread > 19u;
    var total = select(select(0.0, -LARGE, maximum), LARGE, minimum);
    for (var b = 0u; b < p.sequences; b++) {
      let x = load_results(b * RESULTS + thread);
      if (minimum) { total = min(total, x); } else if (maximum) { total = max(total, x); } else { total += x; }
    }
    joined[thread] = total;
    if (thread >= 2u) {
      // No sequence, no extreme.
      var shown = total;
      if (total == LARGE) { shown = p.infinity; }
      if (total == -LARGE) { shown = -p.infinity; }
      store_statistics(thread - 2u, shown);
    }
  }
  workgroupBarrier();
  if (thread == 0u) {
    var loss = joined[0];
    if (p.entropyCoefficient != 0.0) {
      let own_tokens = max(load_totals(0u), 1.0);
      let token_denominator = select(own_tokens, p.tokenDenominator, p.tokenDenominator > 0.0);
      let acted_on = load_totals(2u);
      if (acted_on > 0.0) { loss -= p.entropyCoefficient * joined[1] / (token_denominator * acted_on); }
    }
    store_loss(0u, loss);
  }
}
