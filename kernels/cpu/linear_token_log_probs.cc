// linear_token_log_probs and its gradient: hidden states to log-probs, holding the logits of a few rows at a time
// (NUMERICS section 2). Compiled once an instruction set (isa/kernels.inc).
//
// A chunk of rows is multiplied with the head into float32 logits in the operation's scratch space; the row kernels of
// token_log_probs do the rest. The gradient recomputes the logits, overwrites them with their gradient and multiplies
// that with the head (for the hidden states) and with the hidden states (for the head). Rows without a gradient are
// left out before the first product.

grpo_status linear_token_log_probs(grpo_context& context, const grpo_linear_token_log_probs_args& args) {
  const char* const name = "linearTokenLogProbs";
  const int64_t rows = args.hidden.shape[0], width = args.hidden.shape[1], vocab = args.weight.shape[0];
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, vocab)) return status;
  if (rows == 0) return GRPO_OK;
  const int64_t row_bytes = vocab * static_cast<int64_t>(sizeof(float));
  int64_t chunk = 0;
  if (auto status = check_workspace(context, name, args.workspace_bytes, row_bytes, rows, &chunk)) return status;

  float* logits = static_cast<float*>(context.shared_scratch(chunk * row_bytes));
  const int32_t* targets = static_cast<int32_t*>(args.targets.data);
  const auto at = [](const grpo_tensor& t, int64_t row) { return t.data ? float_data(t) + row : nullptr; };
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const Operand hidden = {row_address(args.hidden, begin), args.hidden.row_stride, args.hidden.dtype};
    gemm(context, false, true, count, vocab, width, hidden, operand(args.weight), logits, vocab, false);
    log_prob_rows(context, logits, vocab, count, vocab, targets + begin, nullptr,
                  row_transform(args.temperature, args.softcap),
                  {at(args.log_probs, begin), at(args.entropy, begin), at(args.log_sum_exp, begin)});
  }
  return GRPO_OK;
}

grpo_status linear_token_log_probs_backward(grpo_context& context,
                                            const grpo_linear_token_log_probs_backward_args& args) {
  const char* const name = "linearTokenLogProbsBackward";
  const int64_t rows = args.hidden.shape[0], width = args.hidden.shape[1], vocab = args.weight.shape[0];
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, vocab)) return status;
  if (rows == 0) return GRPO_OK;

  // One row's share: its logits, its hidden state (copied when rows are left out), its gradient before rounding, and
  // what the row kernel reads of it.
  const int64_t hidden_bytes = width * element_bytes(args.hidden);
  const int64_t row_bytes = (vocab + width + 5) * static_cast<int64_t>(sizeof(float)) + hidden_bytes;
  int64_t chunk = 0;
  if (auto status = check_workspace(context, name, args.workspace_bytes, row_bytes, rows, &chunk)) return status;
  float* logits = static_cast<float*>(context.shared_scratch(chunk * row_bytes));
  float* grad_hidden = logits + chunk * vocab;
  float* log_sum_exp = grad_hidden + chunk * width;
  float* entropy = log_sum_exp + chunk;
  float* grad_log_probs = entropy + chunk;
  float* grad_entropy = grad_log_probs + chunk;
  int32_t* targets = reinterpret_cast<int32_t*>(grad_entropy + chunk);
  char* hidden_rows = reinterpret_cast<char*>(targets + chunk);

  const GradientInputs chosen = {targets,
                                 log_sum_exp,
                                 args.entropy.data ? entropy : nullptr,
                                 grad_log_probs,
                                 args.grad_entropy.data ? grad_entropy : nullptr,
                                 row_transform(args.temperature, args.softcap),
                                 0,
                                 true};
  const auto has_gradient = [&](int64_t row) {
    return float_data(args.grad_log_probs)[row] != 0.0f ||
           (args.grad_entropy.data && float_data(args.grad_entropy)[row] != 0.0f);
  };

  for (int64_t next = 0; next < rows;) {
    // The next rows with a gradient, up to a chunk; `first` to `next` are the rows they were chosen from.
    const int64_t first = next;
    int64_t count = 0;
    for (; next < rows && count < chunk; ++next) {
      if (!has_gradient(next)) continue;
      std::memcpy(hidden_rows + count * hidden_bytes, row_address(args.hidden, next), hidden_bytes);
      log_sum_exp[count] = float_data(args.log_sum_exp)[next];
      if (args.entropy.data) entropy[count] = float_data(args.entropy)[next];
      grad_log_probs[count] = float_data(args.grad_log_probs)[next];
      if (args.grad_entropy.data) grad_entropy[count] = float_data(args.grad_entropy)[next];
      targets[count] = static_cast<int32_t*>(args.targets.data)[next];
      ++count;
    }
    const Operand hidden = {hidden_rows, width, args.hidden.dtype};
    if (count > 0) {
      gemm(context, false, true, count, vocab, width, hidden, operand(args.weight), logits, vocab, false);
      gradient_rows(context, logits, vocab, logits, vocab, count, vocab, chosen);
      const Operand grad_logits = {logits, vocab, GRPO_F32};
      if (args.grad_hidden.data)
        gemm(context, false, false, count, width, vocab, grad_logits, operand(args.weight), grad_hidden, width, false);
      if (args.grad_weight.data) {
        gemm(context, true, false, vocab, width, count, grad_logits, hidden, float_data(args.grad_weight),
             args.grad_weight.row_stride, true);
      }
    }
    if (!args.grad_hidden.data) continue;
    with_float_type(args.grad_hidden, [&](auto* out) {
      int64_t taken = 0;
      for (int64_t row = first; row < next; ++row) {
        auto* to = out + row * args.grad_hidden.row_stride;
        if (has_gradient(row))
          convert_row(to, grad_hidden + taken++ * width, width);
        else
          std::memset(static_cast<void*>(to), 0, width * sizeof *to);
      }
    });
  }
  return GRPO_OK;
}
