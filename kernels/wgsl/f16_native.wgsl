// Conversions of f16 by the device's own instructions, for one that converts as storage.wgsl does (f16_probe.wgsl).

fn native_f16_value(bits: u32) -> f32 { return f32(bitcast<vec2<f16>>(bits).x); }
fn native_f16_bits(x: f32) -> u32 { return bitcast<u32>(vec2<f16>(f16(x), 0h)); }
