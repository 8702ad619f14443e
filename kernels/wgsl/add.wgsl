fn element(row: u32, column: u32) {
  let sum = p.alpha * load_a(row * p.a_stride + column) + p.beta * load_b(row * p.b_stride + column);
  store_out(row * p.out_stride + column, sum);
}
