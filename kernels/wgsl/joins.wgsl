// Reductions that several shaders have (reduce.wgsl).

fn join_sum(a: f32, b: f32) -> f32 { return a + b; }
fn join_most(a: f32, b: f32) -> f32 { return max(a, b); }
