// Rewards are finite, or NaN.

fn good(i: u32) -> bool { return (bitcast<u32>(load_rewards(i)) & 0x7fffffffu) != 0x7f800000u; }

fn found(i: u32) -> i32 { return bitcast<i32>(load_rewards(i)); }
