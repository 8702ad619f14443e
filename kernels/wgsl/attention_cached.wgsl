// cachedAttention: a workgroup has up to QUERIES query heads of one row that read the same key head.

var<private> row: u32;
var<private> first_head: u32;
var<private> key_head: u32;

fn limit(i: u32) -> u32 {
  return select(0u, u32(run.y + run.w), first_head + i < (key_head + 1u) * p.groupSize);
}
fn query_place(i: u32) -> u32 { return row * p.queries_stride + (first_head + i) * p.headDim; }
fn out_place(i: u32) -> u32 { return row * p.out_stride + (first_head + i) * p.headDim; }
fn log_sum_exp_place(i: u32) -> u32 { return i; }
fn key_column() -> u32 { return key_head * p.headDim; }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let number = workgroup_number(workgroup, workgroups);
  let parts = (p.groupSize + QUERIES - 1u) / QUERIES;  // workgroups of a key head
  let own_row = number / (p.keyHeads * parts);
  row = own_row;
  key_head = number / parts % p.keyHeads;
  first_head = key_head * p.groupSize + number % parts * QUERIES;
  if (own_row >= p.rows) { return; }
  if (thread == 0u) {
    let at = own_row * p.segments_stride;
    run = vec4i(load_segments(at), load_segments(at + 1u), load_segments(at + 2u), load_segments(at + 3u));
  }
  let r = workgroupUniformLoad(&run);
  if (r.y < 0 || r.w < 0 || r.y > i32(p.cached) || r.w > i32(p.cached)) { return; }  // check_segments.wgsl reports it
  let length = u32(r.y + r.w);
  attend(thread, Seen(u32(r.x), u32(r.y), u32(r.z), length));
}
