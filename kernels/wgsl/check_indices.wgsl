// Indices are in [0, limit).

fn good(i: u32) -> bool { return u32(load_indices(i)) < p.limit; }

fn found(i: u32) -> i32 { return load_indices(i); }
