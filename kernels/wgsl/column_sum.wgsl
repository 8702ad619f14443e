// Sums over rows of a [rows, width] quantity: a workgroup has 32 columns of chunkRows rows, eight threads a column.
// `element(row, column)` stands in the file after this one.

var<workgroup> lanes: array<f32, 256>;

// The place of a thread's column, and the sum over the chunk for the first thread of each.
fn chunk_sum(number: u32, thread: u32) -> f32 {
  let across = (p.width + 31u) / 32u;
  let column = number % across * 32u + thread % 32u;
  let begin = number / across * p.chunkRows;
  var sum = 0.0;
  if (column < p.width) {
    for (var row = begin + thread / 32u; row < min(begin + p.chunkRows, p.rows); row += 8u) {
      sum += element(row, column);
    }
  }
  lanes[thread] = sum;
  workgroupBarrier();
  sum = 0.0;
  for (var i = 0u; i < 8u; i++) { sum += lanes[thread % 32u + 32u * i]; }
  return sum;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let number = workgroup_number(workgroup, workgroups);
  let sum = chunk_sum(number, thread);
  let across = (p.width + 31u) / 32u;
  let column = number % across * 32u + thread % 32u;
  if (thread < 32u && column < p.width && number / across * p.chunkRows < p.rows) {
    put(number / across, column, sum);
  }
}
