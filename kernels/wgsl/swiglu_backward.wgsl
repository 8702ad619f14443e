fn element(row: u32, column: u32) {
  let gate = load_gate(row * p.gate_stride + column);
  let up = load_up(row * p.up_stride + column);
  let grad = load_gradOut(row * p.gradOut_stride + column);
  let share = sigmoid(gate);
  store_gradGate(row * p.gradGate_stride + column, grad * up * share * (1.0 + gate * sigmoid(-gate)));
  store_gradUp(row * p.gradUp_stride + column, grad * gate * share);
}
