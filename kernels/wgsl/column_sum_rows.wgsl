fn element(row: u32, column: u32) -> f32 { return load_source(row * p.source_stride + column); }
fn put(chunk: u32, column: u32, sum: f32) { store_partials(chunk * p.width + column, sum); }
