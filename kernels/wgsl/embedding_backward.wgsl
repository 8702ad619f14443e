// embeddingBackward: gradTable[ids[n]] += gradOut[n], in the order of n. A workgroup a row n: it ends at once when an
// earlier row has the same id; else it adds up all rows of that id, so that no two workgroups write to one row.

const THREADS = 64u;
var<workgroup> seen: atomic<u32>;
var<workgroup> seen_before: u32;
var<workgroup> matches: array<u32, THREADS>;
var<workgroup> shared_id: i32;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = workgroup_number(workgroup, workgroups);
  if (row >= p.rows) { return; }
  if (thread == 0u) { shared_id = load_ids(row); }
  let id = workgroupUniformLoad(&shared_id);  // uniform also where ids share a buffer that is written
  for (var n = thread; n < row; n += THREADS) {
    if (load_ids(n) == id) { atomicStore(&seen, 1u); break; }
  }
  workgroupBarrier();
  if (thread == 0u) { seen_before = atomicLoad(&seen); }
  if (workgroupUniformLoad(&seen_before) != 0u) { return; }

  if (u32(id) >= p.limit) { return; }  // check_indices.wgsl has reported it
  let to = u32(id) * p.gradTable_stride;
  for (var begin = row; begin < p.rows; begin += THREADS) {
    workgroupBarrier();
    let n = begin + thread;
    matches[thread] = 0u;
    if (n < p.rows && load_ids(n) == id) { matches[thread] = 1u; }
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) {
      if (matches[i] == 0u) { continue; }
      for (var column = thread; column < p.columns; column += THREADS) {
        store_gradTable(to + column, load_gradTable(to + column) + load_gradOut((begin + i) * p.gradOut_stride + column));
      }
    }
  }
}
