// out = op(a) op(b) + bias, plus what `out` held with ACCUMULATE.
//
// A workgroup of 8 x 8 threads computes a tile of 64 x 64; a thread 8 x 8 of it, in two groups of four rows and of four
// columns, so that neighbours read neighbouring words of workgroup memory. Each element is one chain of fma over k,
// from k = 0 on, whatever the other rows: a row has the same bits in every batch.

const TILE = 64u;
const DEPTH = 16u;   // k of one step
const PITCH = 17u;   // vec4s of a row of a tile: one more than it has, against bank conflicts

// [k][row or column], four rows or columns a word. Products and sums are float32 also when factors are f16.
var<workgroup> a_tile: array<vec4<Factor>, 272>;
var<workgroup> b_tile: array<vec4<Factor>, 272>;

fn element_a(row: u32, k: u32) -> f32 {
  if (row >= p.m || k >= p.k) { return 0.0; }
  if (TRANSPOSE_A) { return load_a(k * p.a_stride + row); }
  return load_a(row * p.a_stride + k);
}

fn element_b(k: u32, column: u32) -> f32 {
  if (column >= p.n || k >= p.k) { return 0.0; }
  if (TRANSPOSE_B) { return load_b(column * p.b_stride + k); }
  return load_b(k * p.b_stride + column);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let number = workgroup_number(workgroup, workgroups);
  let across = (p.n + TILE - 1u) / TILE;
  let first_row = number / across * TILE;
  let first_column = number % across * TILE;
  if (first_row >= p.m) { return; }
  let x = thread % 8u;
  let y = thread / 8u;

  // [row of 8][column group of 2], named one by one: an array that is indexed by a variable would lie in memory.
  var s0 = vec4f(0.0);
  var s1 = vec4f(0.0);
  var s2 = vec4f(0.0);
  var s3 = vec4f(0.0);
  var s4 = vec4f(0.0);
  var s5 = vec4f(0.0);
  var s6 = vec4f(0.0);
  var s7 = vec4f(0.0);
  var s8 = vec4f(0.0);
  var s9 = vec4f(0.0);
  var s10 = vec4f(0.0);
  var s11 = vec4f(0.0);
  var s12 = vec4f(0.0);
  var s13 = vec4f(0.0);
  var s14 = vec4f(0.0);
  var s15 = vec4f(0.0);
  for (var begin = 0u; begin < p.k; begin += DEPTH) {
    workgroupBarrier();
    // Threads that follow each other read elements that follow each other.
    for (var i = 0u; i < DEPTH; i++) {
      if (TRANSPOSE_A) {
        a_tile[i * PITCH + thread / 4u][thread % 4u] = Factor(element_a(first_row + thread, begin + i));
      } else {
        let row = thread / 16u + 4u * i;
        a_tile[(thread % 16u) * PITCH + row / 4u][row % 4u] = Factor(element_a(first_row + row, begin + thread % 16u));
      }
      if (TRANSPOSE_B) {
        let column = thread / 16u + 4u * i;
        b_tile[(thread % 16u) * PITCH + column / 4u][column % 4u] = Factor(element_b(begin + thread % 16u, first_column + column));
      } else {
        b_tile[i * PITCH + thread / 4u][thread % 4u] = Factor(element_b(begin + i, first_column + thread));
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let a0 = vec4f(a_tile[k * PITCH + y]);
      let a1 = vec4f(a_tile[k * PITCH + 8u + y]);
      let b0 = vec4f(b_tile[k * PITCH + x]);
      let b1 = vec4f(b_tile[k * PITCH + 8u + x]);
      s0 = fma(vec4f(a0.x), b0, s0);
      s1 = fma(vec4f(a0.x), b1, s1);
      s2 = fma(vec4f(a0.y), b0, s2);
      s3 = fma(vec4f(a0.y), b1, s3);
      s4 = fma(vec4f(a0.z), b0, s4);
      s5 = fma(vec4f(a0.z), b1, s5);
      s6 = fma(vec4f(a0.w), b0, s6);
      s7 = fma(vec4f(a0.w), b1, s7);
      s8 = fma(vec4f(a1.x), b0, s8);
      s9 = fma(vec4f(a1.x), b1, s9);
      s10 = fma(vec4f(a1.y), b0, s10);
      s11 = fma(vec4f(a1.y), b1, s11);
      s12 = fma(vec4f(a1.z), b0, s12);
      s13 = fma(vec4f(a1.z), b1, s13);
      s14 = fma(vec4f(a1.w), b0, s14);
      s15 = fma(vec4f(a1.w), b1, s15);
    }
  }
  var sums = array<vec4f, 16>(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15);
  for (var i = 0u; i < 8u; i++) {
    let row = first_row + (i / 4u) * 32u + 4u * y + i % 4u;
    if (row >= p.m) { continue; }
    for (var group = 0u; group < 2u; group++) {
      let column = first_column + group * 32u + 4u * x;
      store_four(row * p.out_stride + column, column, sums[2u * i + group]);
    }
  }
}

fn store_four(at: u32, column: u32, product: vec4f) {
  for (var j = 0u; j < 4u && column + j < p.n; j++) {
    var sum = product[j];
    if (HAS_BIAS) { sum += load_bias(column + j); }
    if (ACCUMULATE) { sum += load_out(at + j); }
    store_out(at + j, sum);
  }
}
