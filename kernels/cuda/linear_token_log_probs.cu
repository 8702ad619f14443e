// linear_token_log_probs and its gradient: hidden states to log-probs, holding the logits of a few rows at a time
// (NUMERICS section 2).
//
// A chunk of rows is multiplied with the head into logits in the operation's scratch space; the row kernels of
// token_log_probs do the rest. The gradient recomputes the logits, overwrites them with their gradient and multiplies
// that with the head (for the hidden states) and with the hidden states (for the head). Rows without a gradient are
// left out before the first product. Where hidden states, head and the gradient of the hidden states are all bf16, so
// is the gradient of the logits: both products then run on tensor cores as they are.

#include <vector>

#include "log_prob_rows.h"
#include "matmul.h"
#include "operations.h"
#include "rows.h"

namespace grpo_cuda {

namespace {

Matrix rows_from(const grpo_tensor& t, int64_t row) {
  return {static_cast<char*>(t.data) + row * t.row_stride * element_bytes(t), t.dtype, t.row_stride};
}
float* values_from(const grpo_tensor& t, int64_t row) { return t.data ? float_data(t) + row : nullptr; }
grpo_tensor tensor_of(const Matrix& m, int64_t rows, int64_t columns) {
  return {m.data, m.dtype, 2, {rows, columns}, m.stride};
}

// What the row kernel reads of the chosen rows, and their hidden states, one after another.
struct ChosenRows {
  const int32_t* index;
  const int32_t* targets;
  const float *log_sum_exp, *entropy, *grad_log_probs, *grad_entropy;
  int32_t* chosen_targets;
  float *chosen_log_sum_exp, *chosen_entropy, *chosen_grad_log_probs, *chosen_grad_entropy;
};

__global__ void __launch_bounds__(256) choose_rows_kernel(ChosenRows c, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t row = c.index[i];
  c.chosen_targets[i] = c.targets[row];
  c.chosen_log_sum_exp[i] = c.log_sum_exp[row];
  if (c.entropy) c.chosen_entropy[i] = c.entropy[row];
  c.chosen_grad_log_probs[i] = c.grad_log_probs[row];
  if (c.grad_entropy) c.chosen_grad_entropy[i] = c.grad_entropy[row];
}

}  // namespace

grpo_status linear_token_log_probs(grpo_context& context, const grpo_linear_token_log_probs_args& args) {
  const char* const name = "linearTokenLogProbs";
  const int64_t rows = args.hidden.shape[0], width = args.hidden.shape[1], vocab = args.weight.shape[0];
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, vocab)) return status;
  if (rows == 0) return GRPO_OK;
  const int64_t row_bytes = vocab * static_cast<int64_t>(sizeof(float));
  int64_t chunk = 0;
  if (auto status = check_workspace(context, name, args.workspace_bytes, row_bytes, rows, &chunk)) return status;
  const Matrix logits = {context.scratch(chunk * row_bytes), GRPO_F32, vocab};
  if (!logits.data) return context.status();
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    if (auto status = product(context, false, true, count, vocab, width, rows_from(args.hidden, begin),
                              rows_from(args.weight, 0), logits, false))
      return status;
    const LogProbOutputs out = {values_from(args.log_probs, begin), values_from(args.entropy, begin),
                                values_from(args.log_sum_exp, begin), nullptr};
    if (auto status = log_prob_rows(context, tensor_of(logits, count, vocab), int_data(args.targets) + begin, nullptr,
                                    0, row_transform(args.temperature, args.softcap), out))
      return status;
  }
  return GRPO_OK;
}

grpo_status linear_token_log_probs_backward(grpo_context& context,
                                            const grpo_linear_token_log_probs_backward_args& args) {
  const char* const name = "linearTokenLogProbsBackward";
  const int64_t rows = args.hidden.shape[0], width = args.hidden.shape[1], vocab = args.weight.shape[0];
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, vocab)) return status;
  if (rows == 0) return GRPO_OK;
  const int64_t hidden_bytes = width * element_bytes(args.hidden);
  const bool has_grad_hidden = args.grad_hidden.data != nullptr;
  const int64_t grad_bytes = has_grad_hidden ? width * element_bytes(args.grad_hidden) : 0;
  const bool rounds = has_grad_hidden && args.grad_hidden.dtype == GRPO_BF16 && args.hidden.dtype == GRPO_BF16 &&
                      args.weight.dtype == GRPO_BF16;
  const int64_t rounded_bytes = rounds ? vocab * static_cast<int64_t>(sizeof(bf16)) : 0;
  // One row's share: its logits and what they are rounded to, its hidden state and gradient beside the others chosen,
  // and what the row kernel reads.
  const int64_t row_bytes =
      vocab * static_cast<int64_t>(sizeof(float)) + rounded_bytes + hidden_bytes + grad_bytes + 20;
  int64_t chunk = 0;
  if (auto status = check_workspace(context, name, args.workspace_bytes, row_bytes, rows, &chunk)) return status;

  // Which rows have a gradient, by one read of a number or two a row. It waits for what was queued before, which the
  // products that it saves make up for.
  std::vector<float> g(rows), h(args.grad_entropy.data ? rows : 0);
  if (auto status = context.download(g.data(), args.grad_log_probs.data, rows * sizeof(float))) return status;
  if (!h.empty()) {
    if (auto status = context.download(h.data(), args.grad_entropy.data, rows * sizeof(float))) return status;
  }
  std::vector<int32_t> chosen;
  for (int64_t row = 0; row < rows; ++row) {
    if (g[row] != 0.0f || (!h.empty() && h[row] != 0.0f)) chosen.push_back(static_cast<int32_t>(row));
  }
  if (has_grad_hidden && static_cast<int64_t>(chosen.size()) < rows) {
    const grpo_fill_args zero = {args.grad_hidden, 0.0};
    if (auto status = fill(context, zero)) return status;
  }
  if (chosen.empty()) return GRPO_OK;

  const auto room = [](int64_t bytes) { return ceil_divide(bytes, 256) * 256; };
  const int64_t total = static_cast<int64_t>(chosen.size()), most = std::min(chunk, total);
  const int64_t parts[] = {room(total * 4),
                           room(most * vocab * 4),
                           room(most * hidden_bytes),
                           room(most * grad_bytes),
                           room(most * 4),
                           room(most * 4),
                           room(most * 4),
                           room(most * 4),
                           room(most * 4),
                           room(most * rounded_bytes)};
  int64_t bytes = 0;
  for (const int64_t part : parts) bytes += part;
  auto* next = static_cast<char*>(context.scratch(bytes));
  if (!next) return context.status();
  void* memory[std::size(parts)];
  for (size_t i = 0; i < std::size(parts); ++i) {
    memory[i] = next;
    next += parts[i];
  }
  auto* index = static_cast<int32_t*>(memory[0]);
  const Matrix logits = {memory[1], GRPO_F32, vocab};
  const Matrix gradient = rounds ? Matrix{memory[9], GRPO_BF16, vocab} : logits;
  const Matrix hidden = {memory[2], args.hidden.dtype, width};
  const Matrix grad_hidden = {memory[3], args.grad_hidden.dtype, width};
  if (auto status = context.upload(index, chosen.data(), total * sizeof(int32_t))) return status;

  for (int64_t begin = 0; begin < total; begin += most) {
    const int64_t count = std::min(most, total - begin);
    const ChosenRows rows_of = {index + begin,
                                int_data(args.targets),
                                float_data(args.log_sum_exp),
                                float_data(args.entropy),
                                float_data(args.grad_log_probs),
                                float_data(args.grad_entropy),
                                static_cast<int32_t*>(memory[4]),
                                static_cast<float*>(memory[5]),
                                static_cast<float*>(memory[6]),
                                static_cast<float*>(memory[7]),
                                static_cast<float*>(memory[8])};
    if (auto status = launch(context, choose_rows_kernel,
                             {dim3(static_cast<unsigned>(ceil_divide(count, 256))), dim3(256)}, rows_of, count))
      return status;
    const grpo_tensor places = {index + begin, GRPO_I32, 1, {count}, count};
    if (auto status = gather_chosen(context, args.hidden, places, tensor_of(hidden, count, width))) return status;
    if (auto status =
            product(context, false, true, count, vocab, width, hidden, rows_from(args.weight, 0), logits, false))
      return status;
    const GradientInputs inputs = {rows_of.chosen_targets,
                                   rows_of.chosen_log_sum_exp,
                                   args.entropy.data ? rows_of.chosen_entropy : nullptr,
                                   rows_of.chosen_grad_log_probs,
                                   args.grad_entropy.data ? rows_of.chosen_grad_entropy : nullptr,
                                   row_transform(args.temperature, args.softcap),
                                   0,
                                   true};
    if (auto status =
            gradient_rows(context, tensor_of(logits, count, vocab), tensor_of(gradient, count, vocab), inputs))
      return status;
    if (has_grad_hidden) {
      if (auto status = product(context, false, false, count, width, vocab, gradient, rows_from(args.weight, 0),
                                grad_hidden, false))
        return status;
      if (auto status = scatter_chosen(context, tensor_of(grad_hidden, count, width), places, args.grad_hidden))
        return status;
    }
    if (args.grad_weight.data) {
      if (auto status = product(context, true, false, vocab, width, count, gradient, hidden,
                                rows_from(args.grad_weight, 0), true))
        return status;
    }
  }
  return GRPO_OK;
}

}  // namespace grpo_cuda
