// What attention reads of packed sequences: runs[b] = (prefix start, prefix length, own start, own length), the prefix
// being the rows of the parent. Sequences that do not fit are reported, and all runs are empty then.
// One workgroup; the first sequence that does not fit is the one reported.

const THREADS = 256u;
var<workgroup> first_bad: atomic<u32>;
var<workgroup> bad: u32;

fn parent_of(b: u32) -> i32 {
  if (HAS_PARENTS) { return load_parents(b); }
  return -1;
}

fn bad_parent(b: u32) -> bool {
  let parent = parent_of(b);
  return parent < -1 || parent >= i32(b) || (parent >= 0 && parent_of(u32(parent)) >= 0);
}

fn own_length(b: u32) -> i32 { return load_sequenceOffsets(b + 1u) - load_sequenceOffsets(b); }

fn whole_length(b: u32) -> i32 {
  let parent = parent_of(b);
  if (parent < 0) { return own_length(b); }
  return own_length(b) + own_length(u32(parent));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&first_bad, p.sequences); }
  workgroupBarrier();
  for (var b = thread; b < p.sequences; b += THREADS) {
    if (bad_parent(b) || own_length(b) < 0 || whole_length(b) > i32(p.maxLength)) { atomicMin(&first_bad, b); }
  }
  workgroupBarrier();
  if (thread == 0u) {
    bad = atomicLoad(&first_bad);
    let start = load_sequenceOffsets(0u);
    let end = load_sequenceOffsets(p.sequences);
    if (start != 0 || end != i32(p.total)) {
      fail(1, 0u, vec4i(start, end, 0, 0));
      bad = 0u;
    } else if (bad < p.sequences) {
      if (bad_parent(bad)) {
        fail(2, bad, vec4i(parent_of(bad), 0, 0, 0));
      } else {
        fail(3, bad, vec4i(load_sequenceOffsets(bad), load_sequenceOffsets(bad + 1u), whole_length(bad), 0));
      }
    } else {
      bad = p.sequences + 1u;
    }
  }
  let fits = workgroupUniformLoad(&bad) > p.sequences;
  for (var b = thread; b < p.sequences; b += THREADS) {
    let parent = parent_of(b);
    store_runs(4u * b, 0);
    store_runs(4u * b + 1u, 0);
    store_runs(4u * b + 2u, load_sequenceOffsets(b));
    store_runs(4u * b + 3u, 0);
    if (!fits) { continue; }
    store_runs(4u * b + 3u, own_length(b));
    if (parent < 0) { continue; }
    store_runs(4u * b, load_sequenceOffsets(u32(parent)));
    store_runs(4u * b + 1u, own_length(u32(parent)));
  }
}
