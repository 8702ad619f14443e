// Whether a device converts f16 as storage.wgsl does: WGSL lets it flush subnormal numbers and choose how to round. Counts
// the f16 numbers (a thread each) that do so to float32, and back from there, from half way to the next number with the
// floats beside it, and from the float32 that begins with the same 16 bits.

@group(0) @binding(0) var<storage, read_write> exact: atomic<u32>;

fn is_nan_16(bits: u32) -> bool { return (bits & 0x7fffu) > 0x7c00u; }

fn rounds(x: f32) -> bool {
  let expected = f16_bits(x);
  let bits = native_f16_bits(x);
  return bits == expected || (is_nan_16(bits) && is_nan_16(expected));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let bits = id.x;
  let value = f16_value(bits);
  let widened = native_f16_value(bits);
  var good = rounds(bitcast<f32>(bits << 16u)) && rounds(value);
  good = good && (is_nan_16(bits) || bitcast<u32>(widened) == bitcast<u32>(value));
  good = good && (!is_nan_16(bits) || (bitcast<u32>(widened) & 0x7fffffffu) > 0x7f800000u);
  let magnitude = bits & 0x7fffu;
  if (magnitude < 0x7c00u) {
    let above = select(f16_value(magnitude + 1u), 65536.0, magnitude == 0x7bffu);
    let middle = bitcast<u32>(0.5 * (abs(value) + above)) | ((bits - magnitude) << 16u);
    good = good && rounds(bitcast<f32>(middle - 1u)) && rounds(bitcast<f32>(middle)) && rounds(bitcast<f32>(middle + 1u));
  }
  if (good) { atomicAdd(&exact, 1u); }
}
