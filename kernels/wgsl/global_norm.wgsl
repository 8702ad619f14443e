// globalNorm: the root of a sum of squares, exact far beyond float32. Squares are integers of 48 bits with an exponent;
// sums keep 62 bits of them. A workgroup adds up a chunk, then one workgroup the chunks, in a fixed order.

const EACH = 64u;  // elements of a thread

// mantissa * 2^exponent, below 2^63.
struct Wide {
  mantissa: vec2u,
  exponent: i32,
}
const ZERO_EXPONENT = -4096;
const INFINITE = 8192;  // exponents of sums that are not finite
const NOT_A_NUMBER = 8193;

fn square(x: f32) -> Wide {
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  if (bits > 0x7f800000u) { return Wide(vec2u(1u, 0u), NOT_A_NUMBER); }
  if (bits == 0x7f800000u) { return Wide(vec2u(1u, 0u), INFINITE); }
  if (bits == 0u) { return Wide(vec2u(0u, 0u), ZERO_EXPONENT); }
  var mantissa = bits & 0x7fffffu;
  var exponent = i32(bits >> 23u) - 150;
  if (bits >= 0x800000u) {
    mantissa |= 0x800000u;
  } else {
    exponent = -149;
  }
  return Wide(shift_left_64(product_64(mantissa, mantissa), 13u), 2 * exponent - 13);
}

fn add_wide(a: Wide, b: Wide) -> Wide {
  let exponent = max(a.exponent, b.exponent);
  if (exponent >= INFINITE) { return Wide(vec2u(1u, 0u), exponent); }
  let sum = sum_64(shift_right_64(a.mantissa, u32(exponent - a.exponent)),
                   shift_right_64(b.mantissa, u32(exponent - b.exponent)));
  if (sum.y >= 0x40000000u) { return Wide(shift_right_64(sum, 1u), exponent + 1); }
  return Wide(sum, exponent);
}

// Of (mantissa, bits of the exponent).
fn join_wide(a: vec3u, b: vec3u) -> vec3u { return packed(add_wide(unpacked(a), unpacked(b))); }
fn packed(a: Wide) -> vec3u { return vec3u(a.mantissa, bitcast<u32>(a.exponent)); }
fn unpacked(a: vec3u) -> Wide { return Wide(a.xy, bitcast<i32>(a.z)); }
fn workgroup_sum(thread: u32, sum: Wide) -> Wide { return unpacked(lanes_wide(thread, packed(sum))); }

// The bits of the root of a sum, rounded to the nearest float32.
fn root(sum: Wide) -> u32 {
  if (sum.exponent == NOT_A_NUMBER) { return 0x7fc00000u; }
  if (sum.exponent == INFINITE) { return 0x7f800000u; }
  if (all(sum.mantissa == vec2u(0u, 0u))) { return 0u; }
  // As square * 2^(2 * half) with a square of 49 or 50 bits, whose root has 25; what is cut off only says "more".
  let zeros = select(countLeadingZeros(sum.mantissa.y), 32u + countLeadingZeros(sum.mantissa.x), sum.mantissa.y == 0u);
  let top = shift_left_64(sum.mantissa, zeros);
  var exponent = sum.exponent - i32(zeros);
  let drop = select(14u, 15u, (exponent & 1) != 0);
  let square = shift_right_64(top, drop);
  let cut = any(shift_left_64(square, drop) != top);
  exponent += i32(drop);
  var r = u32(sqrt(f32(square.y) * 4294967296.0 + f32(square.x)));
  while (less_64(square, product_64(r, r))) { r--; }
  while (!less_64(square, product_64(r + 1u, r + 1u))) { r++; }
  let more = cut || any(product_64(r, r) != square);
  // r has 25 bits: the last decides on rounding.
  var mantissa = r >> 1u;
  if ((r & 1u) != 0u && (more || (mantissa & 1u) != 0u)) { mantissa++; }
  var scale = exponent / 2 + 1;  // exponent is even
  if (mantissa == 0x1000000u) { mantissa = 0x800000u; scale++; }
  let biased = scale + 150;
  if (biased >= 255) { return 0x7f800000u; }
  if (biased <= 0) { return 0u; }  // a norm below the smallest normal number
  return (mantissa & 0x7fffffu) | (u32(biased) << 23u);
}
