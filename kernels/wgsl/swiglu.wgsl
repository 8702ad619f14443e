// swiglu, swigluBackward: out = gate * sigmoid(gate) * up. A thread an element.

// Both tails are exact: exp of a large negative number is 0, and of a large positive one is not taken.
fn sigmoid(x: f32) -> f32 {
  let small = exp(-abs(x));
  return select(small, 1.0, x >= 0.0) / (1.0 + small);
}
