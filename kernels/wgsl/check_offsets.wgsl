// Offsets begin at 0, never fall, and end at `total`.

fn good(i: u32) -> bool {
  let offset = load_offsets(i);
  if (i == 0u && offset != 0) { return false; }
  if (i > 0u && offset < load_offsets(i - 1u)) { return false; }
  return offset >= 0 && (i + 1u < p.count || offset == i32(p.total));
}

fn found(i: u32) -> i32 { return load_offsets(i); }
