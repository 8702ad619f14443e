// Entropy and advantage.

fn pack(at: u32, token: u32, sequence: u32) {
  if (HAS_ENTROPY) { store_values(at + 5u, load_entropy(token)); }
  store_values(at + 6u, load_advantages(select(token, sequence, SEQUENCE_ADVANTAGES)));
}
