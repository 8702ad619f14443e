fn element(row: u32, column: u32) -> f32 { return load_source(row * p.width + column); }
fn put(chunk: u32, column: u32, sum: f32) { store_out(column, load_out(column) + sum); }
