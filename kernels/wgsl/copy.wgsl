fn element(row: u32, column: u32) { store_out(row * p.out_stride + column, load_source(row * p.source_stride + column)); }
