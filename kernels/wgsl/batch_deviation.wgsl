// The standard deviation of all rewards. One thread.

@compute @workgroup_size(1)
fn main() { store_deviation(0u, moments(0u, p.count).deviation); }
