fn element(row: u32, column: u32) {
  let gate = load_gate(row * p.gate_stride + column);
  store_out(row * p.out_stride + column, gate * sigmoid(gate) * load_up(row * p.up_stride + column));
}
