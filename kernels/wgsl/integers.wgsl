// 64-bit unsigned integers as (low, high) words: WGSL has 32 bits only.

fn product_64(a: u32, b: u32) -> vec2u {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return vec2u(a * b, (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u));
}

fn sum_64(a: vec2u, b: vec2u) -> vec2u {
  let low = a.x + b.x;
  return vec2u(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn difference_64(a: vec2u, b: vec2u) -> vec2u {
  return vec2u(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn less_64(a: vec2u, b: vec2u) -> bool {
  return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn shift_left_64(a: vec2u, bits: u32) -> vec2u {
  if (bits == 0u) { return a; }
  if (bits >= 64u) { return vec2u(0u, 0u); }
  if (bits >= 32u) { return vec2u(0u, a.x << (bits - 32u)); }
  return vec2u(a.x << bits, (a.y << bits) | (a.x >> (32u - bits)));
}

fn shift_right_64(a: vec2u, bits: u32) -> vec2u {
  if (bits == 0u) { return a; }
  if (bits >= 64u) { return vec2u(0u, 0u); }
  if (bits >= 32u) { return vec2u(a.y >> (bits - 32u), 0u); }
  return vec2u((a.x >> bits) | (a.y << (32u - bits)), a.y >> bits);
}

// floor(a * b / 2^64).
fn product_high_64(a: vec2u, b: vec2u) -> vec2u {
  let low = product_64(a.x, b.x);
  let first = sum_64(product_64(a.x, b.y), vec2u(low.y, 0u));
  let second = sum_64(product_64(a.y, b.x), vec2u(first.x, 0u));
  return sum_64(sum_64(product_64(a.y, b.y), vec2u(first.y, 0u)), vec2u(second.y, 0u));
}
