// What every shader may use: numbering of workgroups, and 16-bit floats, which storage buffers hold two a word.

fn workgroup_number(workgroup: vec3u, workgroups: vec3u) -> u32 { return workgroup.y * workgroups.x + workgroup.x; }

fn bf16_value(bits: u32) -> f32 { return bitcast<f32>(bits << 16u); }

// Round to nearest even; NaN stays NaN.
fn bf16_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// By integers: unpack2x16float may flush subnormal numbers.
fn f16_value(bits: u32) -> f32 {
  let sign = (bits & 0x8000u) << 16u;
  let exponent = (bits >> 10u) & 0x1fu;
  let fraction = bits & 0x3ffu;
  if (exponent == 0x1fu) { return bitcast<f32>(sign | 0x7f800000u | (fraction << 13u)); }
  if (exponent != 0u) { return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (fraction << 13u)); }
  let magnitude = f32(fraction) * 5.9604644775390625e-8;  // 2^-24
  return bitcast<f32>(sign | bitcast<u32>(magnitude));
}

fn f16_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; }  // rounds to at least 65520
  if (magnitude < 0x33000000u) { return sign; }             // below half of the least subnormal
  if (magnitude < 0x38800000u) {
    let shift = 126u - (magnitude >> 23u);
    let fraction = (magnitude & 0x7fffffu) | 0x800000u;
    let kept = fraction >> shift;
    let rest = fraction & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    return sign | (kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u)));
  }
  let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
  return sign | ((rounded - 0x38000000u) >> 13u);
}
