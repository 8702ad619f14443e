// rope: a thread rotates one pair (i, i + headDim / 2) of a head.

// 1 / (2 pi) as a binary fraction of 96 bits, the highest 32 first.
const TURN = vec3u(0x28be60dbu, 0x9391054au, 0x7f09d5f4u);

// The share of a turn that an angle is, modulo 1, in units of 2^-32. Integers: float32 would lose large angles' turns,
// and WGSL promises no order of float operations.
fn turns(angle: f32) -> u32 {
  let bits = bitcast<u32>(abs(angle));
  if (bits < 0x34000000u) { return 0u; }  // below 2^-23: less than one unit
  let mantissa = (bits & 0x7fffffu) | 0x800000u;
  let exponent = i32(bits >> 23u) - 150;  // angle = mantissa * 2^exponent
  let high = product_64(mantissa, TURN.x);
  let middle = product_64(mantissa, TURN.y);
  let low = product_64(mantissa, TURN.z);
  // mantissa / (2 pi) in three words: whole turns, then 64 bits behind the point, then 32 more.
  let third = sum_64(middle, vec2u(low.y, 0u));
  let second = sum_64(high, vec2u(third.y, 0u));
  var result: u32;
  if (exponent < 0) {
    result = shift_right_64(vec2u(second.x, second.y), u32(-exponent)).x;
  } else {
    result = shift_left_64(vec2u(third.x, second.x), u32(exponent)).y;
  }
  return select(result, 0u - result, angle < 0.0);
}

// Cosine and sine of 2 pi * turns / 2^32, to float accuracy: the nearest quarter turn, then Taylor polynomials within
// an eighth of a turn.
fn cosine_sine(turns: u32) -> vec2f {
  let quarter = (turns + 0x20000000u) >> 30u;
  let rest = f32(bitcast<i32>(turns - (quarter << 30u))) * 1.46291807926715968e-9;  // pi / 2 / 2^30
  let s = rest * rest;
  let sine = rest + rest * s * (-1.6666666667e-1 + s * (8.3333333333e-3 + s * (-1.9841269841e-4 + s * 2.7557319224e-6)));
  let cosine = 1.0 + s * (-0.5 + s * (4.1666666667e-2 + s * (-1.3888888889e-3 + s * (2.4801587302e-5 - s * 2.7557319e-7))));
  switch quarter {
    case 0u: { return vec2f(cosine, sine); }
    case 1u: { return vec2f(-sine, cosine); }
    case 2u: { return vec2f(-cosine, -sine); }
    default: { return vec2f(sine, -cosine); }
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let each = p.columns / 2u;
  let number = workgroup_number(workgroup, workgroups) * 256u + thread;
  if (number >= p.rows * each) { return; }
  let row = number / each;
  let half = p.headDim / 2u;
  let i = number % each % half;
  let column = number % each / half * p.headDim + i;
  // The angle is a float32 product, as transformers has it.
  let rotation = cosine_sine(turns(f32(load_positions(row)) * load_inverseFrequencies(i)));
  let sine = select(rotation.y, -rotation.y, BACKWARD);
  let source_at = row * p.source_stride + column;
  let x = load_source(source_at);
  let y = load_source(source_at + half);
  let to = row * p.out_stride + column;
  store_out(to, x * rotation.x - y * sine);
  store_out(to + half, y * rotation.x + x * sine);
}
