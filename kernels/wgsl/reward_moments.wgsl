// What advantages need of scorable rewards (docs/numerics.md, section 3): deviations from the first reward, so that
// equal rewards give exactly zero. Sums are kept in two floats each: a difference of nearly equal rewards keeps its
// digits.

struct Moments { count: u32, first: f32, shift: f32, deviation: f32, all_equal: bool }

// sum + x as a float and what its rounding lost.
fn add_exactly(sum: vec2f, x: f32) -> vec2f {
  let total = sum.x + x;
  let part = total - sum.x;
  let lost = (sum.x - (total - part)) + (x - part);
  return vec2f(total, sum.y + lost);
}

fn moments(begin: u32, end: u32) -> Moments {
  var count = 0u;
  var first = 0.0;
  var sum = vec2f(0.0);
  var all_equal = true;
  for (var i = begin; i < end; i++) {
    let reward = load_rewards(i);
    if (is_nan(reward)) { continue; }
    if (count == 0u) { first = reward; }
    count++;
    all_equal = all_equal && reward == first;
    sum = add_exactly(sum, reward - first);
  }
  let shift = (sum.x + sum.y) / f32(max(count, 1u));
  var squares = vec2f(0.0);
  for (var i = begin; i < end; i++) {
    let reward = load_rewards(i);
    if (is_nan(reward)) { continue; }
    let deviation = (reward - first) - shift;
    squares = add_exactly(squares, deviation * deviation);
  }
  var deviation = 0.0;
  if (count > 1u) { deviation = sqrt((squares.x + squares.y) / f32(count - 1u)); }
  return Moments(count, first, shift, deviation, all_equal);
}
