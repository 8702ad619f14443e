// What operations check of their arguments before they run, the same for the CPU and CUDA. Included where grpo_context
// is known: it records an error with fail(), and gives the values of an i32 tensor with host_integers().
#pragma once

#include "../include/grpo.h"
#include "hd.h"

static inline long long check_number(int64_t x) { return static_cast<long long>(x); }

// ---- indices --------------------------------------------------------------------------------------------------------

// Indices of rows against the number of rows that they point into.
static inline grpo_status check_indices(grpo_context& context, const char* what, const grpo_tensor& indices,
                                        int64_t limit) {
  if (!context.checks_indices()) return GRPO_OK;
  const int32_t* index = context.host_integers(indices);
  if (!index) return context.status();
  for (int64_t i = 0; i < indices.shape[0]; ++i) {
    if (index[i] < 0 || index[i] >= limit) {
      return context.fail(GRPO_INVALID_ARGUMENT, "%s[%lld]: expected an index from 0 to %lld but received %d", what,
                          check_number(i), check_number(limit - 1), index[i]);
    }
  }
  return GRPO_OK;
}

// Offsets that begin at 0, never fall and end at `total`.
static inline grpo_status check_offsets(grpo_context& context, const char* what, const grpo_tensor& offsets,
                                        int64_t total) {
  const int32_t* offset = context.host_integers(offsets);
  if (!offset) return context.status();
  const int64_t last = offsets.shape[0] - 1;
  for (int64_t i = 0; i <= last; ++i) {
    const bool good =
        offset[i] >= (i == 0 ? 0 : offset[i - 1]) && (i > 0 || offset[0] == 0) && (i < last || offset[i] == total);
    if (good) continue;
    return context.fail(GRPO_INVALID_ARGUMENT,
                        "%s: expected offsets from 0 to %lld that never fall but received %d at %lld", what,
                        check_number(total), offset[i], check_number(i));
  }
  return GRPO_OK;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

static inline grpo_status check_copy(grpo_context& context, const grpo_copy_args& args) {
  if (args.in.dtype != args.out.dtype && (args.in.dtype == GRPO_I32 || args.out.dtype == GRPO_I32)) {
    return context.fail(GRPO_UNSUPPORTED, "copy: no conversion between i32 and float tensors");
  }
  return GRPO_OK;
}

static inline grpo_status check_gather_rows(grpo_context& context, const grpo_gather_rows_args& args) {
  if (args.in.dtype != args.out.dtype)
    return context.fail(GRPO_INVALID_ARGUMENT, "gatherRows: in and out differ in dtype");
  return check_indices(context, "gatherRows: indices", args.indices, args.in.shape[0]);
}

static inline grpo_status check_scatter_rows(grpo_context& context, const grpo_scatter_rows_args& args) {
  if (args.in.dtype != args.out.dtype)
    return context.fail(GRPO_INVALID_ARGUMENT, "scatterRows: in and out differ in dtype");
  return check_indices(context, "scatterRows: indices", args.indices, args.out.shape[0]);
}

// ---- decoder --------------------------------------------------------------------------------------------------------

static inline grpo_status check_matmul(grpo_context& context, const grpo_matmul_args& args) {
  const bool transpose_a = args.transpose_a != 0, transpose_b = args.transpose_b != 0;
  const int64_t m = args.out.shape[0], n = args.out.shape[1];
  const int64_t k = args.a.shape[transpose_a ? 0 : 1];
  const int64_t a_rows = args.a.shape[transpose_a ? 1 : 0], b_rows = args.b.shape[transpose_b ? 1 : 0];
  const int64_t b_columns = args.b.shape[transpose_b ? 0 : 1];
  if (a_rows == m && b_rows == k && b_columns == n) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "matmul: expected op(a) [%lld,k], op(b) [k,%lld] but received [%lld,%lld], [%lld,%lld]",
                      check_number(m), check_number(n), check_number(a_rows), check_number(k), check_number(b_rows),
                      check_number(b_columns));
}

// Rows must be whole groups of weights.
static inline grpo_status check_norm(grpo_context& context, const char* operation, const grpo_tensor& weight,
                                     int64_t columns) {
  const int64_t group = weight.shape[0];
  if (group > 0 && columns % group == 0) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "%s: expected rows of a multiple of %lld weights but received %lld columns", operation,
                      check_number(group), check_number(columns));
}

static inline grpo_status check_rope(grpo_context& context, const grpo_rope_args& args) {
  const int64_t head_dim = static_cast<int64_t>(args.head_dim), half = args.inverse_frequencies.shape[0];
  if (head_dim > 0 && half * 2 == head_dim && args.in.shape[1] % head_dim == 0) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "rope: expected %lld columns to be whole heads of headDim %lld, with half as many frequencies "
                      "but received %lld",
                      check_number(args.in.shape[1]), check_number(head_dim), check_number(half));
}

// Columns of queries and keys must be whole heads, those of the queries a multiple of the others.
static inline grpo_status check_heads(grpo_context& context, const char* operation, const grpo_tensor& queries,
                                      const grpo_tensor& keys, double head_dim) {
  const int64_t d = static_cast<int64_t>(head_dim), q = queries.shape[1], k = keys.shape[1];
  if (!(d <= 0 || q % d != 0 || k % d != 0 || (q > 0 && (k == 0 || q % k != 0)))) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "%s: expected %lld query and %lld key columns to be heads of headDim %lld, the first a "
                      "multiple of the second",
                      operation, check_number(q), check_number(k), check_number(d));
}

// Packed sequences, some of which continue an earlier one: the rows of `parent`, then the sequence's own.
struct PackedSequences {
  const int32_t* offsets;
  const int32_t* parents;  // nullptr: none has one
  int64_t count;
  int64_t longest;  // rows of a sequence and its parent

  int64_t start(int64_t b) const { return offsets[b]; }
  int64_t own_length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  int64_t parent(int64_t b) const { return parents ? parents[b] : -1; }
  int64_t prefix_length(int64_t b) const { return parent(b) < 0 ? 0 : own_length(parent(b)); }
};

// Sequences must follow each other from row 0 to the last row, a parent before its children and without a parent.
// `offsets` and `parents` (or nullptr) are the values of the tensors.
static inline grpo_status check_sequences(grpo_context& context, const char* operation, const int32_t* offsets,
                                          const int32_t* parents, int64_t count, int64_t rows, double max_length,
                                          PackedSequences* sequences) {
  PackedSequences s = {offsets, parents, count, 0};
  if (s.count < 0 || s.offsets[0] != 0 || s.offsets[s.count] != rows) {
    return context.fail(GRPO_INVALID_ARGUMENT, "%s: expected sequenceOffsets from 0 to %lld but received %d to %d",
                        operation, check_number(rows), s.count < 0 ? 0 : s.offsets[0],
                        s.count < 0 ? 0 : s.offsets[s.count]);
  }
  for (int64_t b = 0; b < s.count; ++b) {
    const int64_t parent = s.parent(b);
    if (parent < -1 || parent >= b || (parent >= 0 && s.parent(parent) >= 0)) {
      return context.fail(GRPO_INVALID_ARGUMENT,
                          "%s: expected parents[%lld] to be -1 or an earlier sequence without a parent but received "
                          "%lld",
                          operation, check_number(b), check_number(parent));
    }
    const int64_t length = s.own_length(b) + s.prefix_length(b);
    if (s.own_length(b) < 0 || length > max_length) {
      return context.fail(GRPO_INVALID_ARGUMENT,
                          "%s: expected sequenceOffsets[%lld] from %d on and sequences of at most maxLength %g but "
                          "received %d, a length of %lld",
                          operation, check_number(b + 1), s.offsets[b], max_length, s.offsets[b + 1],
                          check_number(length));
    }
    s.longest = s.longest > length ? s.longest : length;
  }
  *sequences = s;
  return GRPO_OK;
}

// What a row of cached_attention sees: two runs of cached rows.
struct CacheSegment {
  int32_t prefix_start, prefix_length, own_start, own_length;
};

GRPO_HD bool segment_fits(const CacheSegment& s, int64_t cached, double max_length) {
  const int64_t length = int64_t{s.prefix_length} + s.own_length;
  return s.prefix_start >= 0 && s.prefix_length >= 0 && s.own_start >= 0 && s.own_length >= 0 && length > 0 &&
         int64_t{s.prefix_start} + s.prefix_length <= cached && int64_t{s.own_start} + s.own_length <= cached &&
         length <= max_length;
}

static inline grpo_status check_segment(grpo_context& context, const CacheSegment& s, int64_t row, int64_t cached,
                                        double max_length) {
  if (segment_fits(s, cached, max_length)) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "cachedAttention: expected segments[%lld] to name 1 to maxLength %g of %lld cached rows but "
                      "received (%d,%d,%d,%d)",
                      check_number(row), max_length, check_number(cached), s.prefix_start, s.prefix_length, s.own_start,
                      s.own_length);
}

static inline grpo_status check_sample(grpo_context& context, const grpo_sample_args& args) {
  const auto refuse = [&](const char* name, const char* expected, double got) {
    return context.fail(GRPO_INVALID_ARGUMENT, "sample: expected %s for %s but received %g", expected, name, got);
  };
  if (!(args.temperature >= 0.0) || std::isinf(args.temperature)) {
    return refuse("temperature", "a number from 0 on", args.temperature);
  }
  if (!(args.top_k >= 0.0) || args.top_k != std::floor(args.top_k)) {
    return refuse("topK", "a whole number from 0 on", args.top_k);
  }
  if (!(args.top_p >= 0.0 && args.top_p <= 1.0)) return refuse("topP", "a number from 0 to 1", args.top_p);
  if (!(args.min_p >= 0.0 && args.min_p <= 1.0)) return refuse("minP", "a number from 0 to 1", args.min_p);
  if (args.logits.shape[0] > 0 && args.logits.shape[1] == 0) return refuse("logits", "at least one token a row", 0.0);
  return GRPO_OK;
}

// ---- GRPO -----------------------------------------------------------------------------------------------------------

static inline grpo_status check_transform(grpo_context& context, const char* operation, double temperature,
                                          double softcap) {
  if (!(temperature > 0.0 && std::isfinite(static_cast<float>(1.0 / temperature)) &&
        static_cast<float>(1.0 / temperature) > 0.0f)) {
    return context.fail(GRPO_INVALID_ARGUMENT, "%s: expected a temperature above 0 but received %g", operation,
                        temperature);
  }
  if (!(softcap >= 0.0 && std::isfinite(static_cast<float>(softcap)))) {
    return context.fail(GRPO_INVALID_ARGUMENT, "%s: expected a softcap of 0 or more but received %g", operation,
                        softcap);
  }
  return GRPO_OK;
}

// The settings of log-probs, and their targets among `vocab` tokens.
static inline grpo_status check_log_probs(grpo_context& context, const char* operation, double temperature,
                                          double softcap, const grpo_tensor& targets, int64_t vocab) {
  if (auto status = check_transform(context, operation, temperature, softcap)) return status;
  return check_indices(context, (std::string(operation) + ": targets").c_str(), targets, vocab);
}

// Where a slice of the vocabulary begins, and how many entries the whole has.
struct VocabularySlice {
  int64_t start, vocab;
  bool whole;
};

static inline grpo_status check_slice(grpo_context& context, const char* operation, double start, double size,
                                      int64_t columns, VocabularySlice* slice) {
  slice->start = static_cast<int64_t>(start);
  slice->vocab = size > 0 ? static_cast<int64_t>(size) : columns;
  slice->whole = slice->start == 0 && slice->vocab == columns;
  if (slice->start >= 0 && slice->start + columns <= slice->vocab) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT, "%s: expected a slice inside %lld entries but received %lld from %lld",
                      operation, check_number(slice->vocab), check_number(columns), check_number(slice->start));
}

// The gradient may take the place of the logits as they lie there.
static inline grpo_status check_grad_logits(grpo_context& context, const char* operation, const grpo_tensor& logits,
                                            const grpo_tensor& grad_logits) {
  if (grad_logits.data != logits.data ||
      (grad_logits.dtype == logits.dtype && grad_logits.row_stride == logits.row_stride))
    return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT, "%s: in place, gradLogits must have the dtype and rows of logits",
                      operation);
}

static inline grpo_status check_token_log_probs_backward(grpo_context& context,
                                                         const grpo_token_log_probs_backward_args& args,
                                                         VocabularySlice* slice) {
  const char* const name = "tokenLogProbsBackward";
  if (auto status = check_slice(context, name, args.vocab_start, args.vocab_size, args.logits.shape[1], slice))
    return status;
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, slice->vocab))
    return status;
  if (args.grad_entropy.data && !args.entropy.data && !slice->whole) {
    return context.fail(GRPO_INVALID_ARGUMENT, "%s: expected the entropy of the rows beside gradEntropy", name);
  }
  return check_grad_logits(context, name, args.logits, args.grad_logits);
}

// How many rows fit into the workspace, `bytes_per_row` each, evenly spread over the fewest chunks.
static inline grpo_status check_workspace(grpo_context& context, const char* operation, double workspace_bytes,
                                          int64_t bytes_per_row, int64_t rows, int64_t* rows_per_chunk) {
  const int64_t most = static_cast<int64_t>(workspace_bytes / static_cast<double>(bytes_per_row));
  if (most <= 0) {
    return context.fail(GRPO_INVALID_ARGUMENT,
                        "%s: expected workspaceBytes of at least %lld (one row) but received %.0f", operation,
                        check_number(bytes_per_row), workspace_bytes);
  }
  const int64_t chunks = (rows + most - 1) / most;
  *rows_per_chunk = (rows + chunks - 1) / chunks;
  return GRPO_OK;
}

static inline grpo_status refuse_reward(grpo_context& context, int64_t i, float reward) {
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "groupAdvantages: rewards[%lld]: expected a finite reward, or NaN for one that cannot be "
                      "scored, but received %g",
                      check_number(i), reward);
}

static inline grpo_status check_entropy_threshold(grpo_context& context, const grpo_entropy_threshold_args& args) {
  if (args.top_entropy_quantile > 0.0 && args.top_entropy_quantile <= 1.0) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT,
                      "entropyThreshold: expected a topEntropyQuantile above 0 and at most 1 but received %g",
                      args.top_entropy_quantile);
}

static inline grpo_status check_policy_loss(grpo_context& context, const grpo_policy_loss_args& args,
                                            int64_t statistic_count, const char* operation = "policyLoss") {
  const int64_t tokens = args.log_probs.shape[0], sequences = args.sequence_offsets.shape[0] - 1;
  const auto refuse = [&](const char* text) { return context.fail(GRPO_INVALID_ARGUMENT, "%s: %s", operation, text); };
  const std::string offsets = std::string(operation) + ": sequenceOffsets";
  if (auto status = check_offsets(context, offsets.c_str(), args.sequence_offsets, tokens)) return status;
  if (args.advantages.shape[0] != sequences && args.advantages.shape[0] != tokens)
    return refuse("expected an advantage a sequence or a token");
  if (args.statistics.shape[0] != statistic_count) return refuse("statistics has the wrong length");
  const auto is_choice = [](double x, int most) { return x >= 0.0 && x <= most; };
  if (!is_choice(args.loss_type, GRPO_LOSS_VESPO)) return refuse("unknown lossType");
  if (!is_choice(args.kl_estimator, GRPO_KL_K3)) return refuse("unknown klEstimator");
  if (!is_choice(args.rollout_correction, GRPO_CORRECTION_SEQUENCE_MASK)) return refuse("unknown rolloutCorrection");
  const int loss_type = static_cast<int>(args.loss_type), correction = static_cast<int>(args.rollout_correction);
  if (args.beta != 0.0 && !args.ref_log_probs.data) return refuse("beta needs refLogProbs");
  if (correction != GRPO_CORRECTION_NONE && !args.rollout_log_probs.data)
    return refuse("rolloutCorrection needs rolloutLogProbs");
  if (args.entropy_coefficient != 0.0 && !(args.entropy.data && args.grad_entropy.data))
    return refuse("entropyCoefficient needs entropy and gradEntropy");
  if (args.entropy_threshold.data && !args.entropy.data) return refuse("entropyThreshold needs entropy");
  if (loss_type == GRPO_LOSS_DR_GRPO && !(args.max_completion_length > 0.0))
    return refuse("dr_grpo needs maxCompletionLength");
  if (loss_type == GRPO_LOSS_VESPO && correction > GRPO_CORRECTION_TOKEN_MASK)
    return refuse("vespo takes a rolloutCorrection of tokens only");
  return GRPO_OK;
}

// ---- optimiser ------------------------------------------------------------------------------------------------------

static inline grpo_status check_adamw(grpo_context& context, const grpo_adamw_args& args) {
  if (args.step >= 1) return GRPO_OK;
  return context.fail(GRPO_INVALID_ARGUMENT, "adamw: expected a step from 1 on but received %g", args.step);
}
