// attention: QUERIES rows of one head of one packed sequence a workgroup. runs[b] = (prefix start, prefix length, own
// start, own length), as sequence_runs.wgsl writes them.

var<private> position: u32;  // of the first query in its own rows
var<private> head: u32;

fn limit(i: u32) -> u32 {
  return select(0u, u32(run.y) + position + i + 1u, position + i < u32(run.w));
}
fn query_row(i: u32) -> u32 { return u32(run.z) + position + i; }
fn query_place(i: u32) -> u32 { return query_row(i) * p.queries_stride + head * p.headDim; }
fn out_place(i: u32) -> u32 { return query_row(i) * p.out_stride + head * p.headDim; }
fn log_sum_exp_place(i: u32) -> u32 { return query_row(i) * p.logSumExp_stride + head; }
fn key_column() -> u32 { return head / p.groupSize * p.headDim; }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        invocation: Invocation) {
  let thread = thread_number(invocation);
  let number = workgroup_number(workgroup, workgroups);
  head = number % p.heads;
  let sequence = number / p.heads % p.sequences;
  let first = number / p.heads / p.sequences * QUERIES;
  position = first;
  if (thread == 0u) {
    run = vec4i(load_runs(4u * sequence), load_runs(4u * sequence + 1u), load_runs(4u * sequence + 2u),
                load_runs(4u * sequence + 3u));
  }
  let r = workgroupUniformLoad(&run);
  if (first >= u32(r.w)) { return; }
  let last = min(first + QUERIES, u32(r.w));
  attend(thread, Seen(u32(r.x), u32(r.y), u32(r.z), u32(r.y) + last));
}
