// groupAdvantages: a thread a group.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) workgroups: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let g = workgroup_number(workgroup, workgroups) * 64u + thread;
  if (g >= p.groups) { return; }
  let begin = u32(clamp(load_offsets(g), 0, i32(p.count)));
  let end = u32(clamp(load_offsets(g + 1u), 0, i32(p.count)));
  let group = moments(begin, end);
  var divisor = 1.0;
  if (SCALE == 0u) { divisor = group.deviation + p.epsilon; }
  if (SCALE == 1u) { divisor = load_deviation(0u) + p.epsilon; }
  for (var i = begin; i < end; i++) {
    let reward = load_rewards(i);
    if (is_nan(reward) || group.all_equal) {
      store_advantages(i, 0.0);
      continue;
    }
    var centred = reward;
    if (BASELINE != 2u) { centred = (reward - group.first) - group.shift; }
    if (BASELINE == 1u) { centred = centred * f32(group.count) / f32(group.count - 1u); }
    store_advantages(i, centred / divisor);
  }
}
