// Threads are numbered by their places in subgroups, which need not follow local_invocation_index. Subgroups have WIDTH
// threads or a multiple of it, and are full, since shader.ts uses this file only where a workgroup is a multiple of all.

struct Invocation {
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
}

fn thread_number(invocation: Invocation) -> u32 { return invocation.subgroup * invocation.size + invocation.lane; }
