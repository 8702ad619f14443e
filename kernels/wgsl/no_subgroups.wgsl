// The numbers of threads that reduce through workgroup memory alone.

struct Invocation {
  @builtin(local_invocation_index) index: u32,
}

fn thread_number(invocation: Invocation) -> u32 { return invocation.index; }
