// Philox4x32-10: a random number is a function of key and counter. Salmon et al., SC 2011. As kernels/common/philox.h.

fn philox(key: vec2u, counter: vec4u) -> vec4u {
  var k = key;
  var c = counter;
  for (var round = 0; round < 10; round++) {
    let first = product_64(0xD2511F53u, c.x);
    let second = product_64(0xCD9E8D57u, c.z);
    c = vec4u(second.y ^ c.y ^ k.x, second.x, first.y ^ c.w ^ k.y, first.x);
    k += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}
