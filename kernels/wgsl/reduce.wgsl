// Joins a value of each of LANES threads that follow each other; all of them get the result. src/backend/webgpu/shader.ts
// writes this file for each reduction of a shader: NAME is its name, VALUE its type, and `join_NAME` joins two values.
//
// Neighbours are joined first, then pairs of neighbours, and so on: no bit depends on the size of subgroups, or on whether
// there are any. Within WIDTH threads (1 without subgroups) no memory is needed.

var<workgroup> NAME_values: array<VALUE, 2u * THREADS>;

fn lanes_NAME(thread: u32, own: VALUE) -> VALUE {
  if (WIDTH < LANES) { workgroupBarrier(); }  // all have read what the reduction before left
  var joined = own;
  var half = 0u;  // the halves of the memory take turns, so that one barrier a step is enough
  for (var step = 1u; step < LANES; step *= 2u) {
    var other = joined;
    if (step < WIDTH) {
      other = shuffle_NAME(joined, step);
    } else {
      NAME_values[half + thread] = joined;
      workgroupBarrier();
      other = NAME_values[half + (thread ^ step)];
      half = THREADS - half;
    }
    let first = (thread & step) == 0u;
    joined = join_NAME(select(other, joined, first), select(joined, other, first));
  }
  return joined;
}
