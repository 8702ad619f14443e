fn element(row: u32, column: u32) { store_out(row * p.out_stride + column, p.value); }
