// exp, log and tanh to a rounding error or two. Those of WGSL may be off by far more, and by how much depends on the
// device. Infinities and NaN are told by their bits, since a compiler may assume that there are none.

fn is_negative_infinity(x: f32) -> bool { return bitcast<u32>(x) == 0xff800000u; }
fn is_nan_or_infinity(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u; }
fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }

// 0 below -87; the argument is at most 88.
fn exponential(x: f32) -> f32 {
  let clamped = clamp(x, -87.0, 88.0);
  let n = floor(clamped * 1.44269504 + 0.5);
  let r = fma(n, 2.12194440e-4, fma(n, -0.693359375, clamped));  // n ln 2 in two parts, the first exact
  var q = fma(1.9875691500e-4, r, 1.3981999507e-3);              // Cephes
  q = fma(q, r, 8.3334519073e-3);
  q = fma(q, r, 4.1665795894e-2);
  q = fma(q, r, 1.6666665459e-1);
  q = fma(q, r, 5.0000001201e-1);
  let fraction = fma(q * r, r, r) + 1.0;
  let scaled = fraction * bitcast<f32>(u32(i32(n) + 127) << 23u);
  return select(scaled, 0.0, x < -87.0);
}

// Of a positive normal number.
fn logarithm(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  var exponent = i32(bits >> 23u) - 126;
  var m = bitcast<f32>((bits & 0x7fffffu) | 0x3f000000u);  // from 1/2 to 1
  if (m < 0.70710678) {
    exponent -= 1;
    m = m + m;
  }
  let f = m - 1.0;
  let z = f * f;
  var q = fma(7.0376836292e-2, f, -1.1514610310e-1);  // Cephes
  q = fma(q, f, 1.1676998740e-1);
  q = fma(q, f, -1.2420140846e-1);
  q = fma(q, f, 1.4249322787e-1);
  q = fma(q, f, -1.6668057665e-1);
  q = fma(q, f, 2.0000714765e-1);
  q = fma(q, f, -2.4999993993e-1);
  q = fma(q, f, 3.3333331174e-1);
  let e = f32(exponent);
  var y = q * f * z;
  y = fma(e, -2.12194440e-4, y);
  y = fma(-0.5, z, y);
  return fma(e, 0.693359375, f + y);
}

// tanh, and 1 - tanh^2.
fn hyperbolic_tangent(y: f32) -> vec2f {
  let magnitude = abs(y);
  let u = exponential(-2.0 * magnitude);
  let inverse = 1.0 / (1.0 + u);
  let s = y * y;
  var q = fma(-5.70498872745e-3, s, 2.06390887954e-2);
  q = fma(q, s, -5.37397155531e-2);
  q = fma(q, s, 1.33314422036e-1);
  q = fma(q, s, -3.33333319422e-1);
  let near = fma(q * s, y, y);
  let far = select((1.0 - u) * inverse, -(1.0 - u) * inverse, y < 0.0);
  return vec2f(select(far, near, magnitude < 0.625), 4.0 * u * inverse * inverse);
}
