/* The C API that every kernel library fills in: the CPU library inside the addon, libgrpo_cuda.so beside it, and any
 * program that embeds the kernels without Node.
 *
 * A backend is a table of functions. Memory belongs to a context; an operation reads and writes tensors that live
 * there. Operations of one context are called from one thread at a time and take effect in call order.
 *
 * The operations are listed once, below, as GRPO_FIELDS_<operation>: first its tensors, then its scalars. From that
 * list come the argument structs (grpo_<operation>_args), the function pointers of the table, and the names that
 * src/backend/backend.ts is checked against. That TypeScript file documents shapes, dtypes and what is overwritten;
 * NUMERICS names in the comments here are sections of docs/numerics.md.
 */
#ifndef GRPO_H
#define GRPO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GRPO_ABI_VERSION 4u
#define GRPO_MAX_RANK 4

typedef enum grpo_dtype { GRPO_F32 = 0, GRPO_BF16 = 1, GRPO_F16 = 2, GRPO_I32 = 3 } grpo_dtype;

typedef enum grpo_status {
  GRPO_OK = 0,
  GRPO_INVALID_ARGUMENT = 1, /* shape, dtype, option or value out of range; nothing was written */
  GRPO_OUT_OF_MEMORY = 2,    /* nothing was written */
  GRPO_UNSUPPORTED = 3,      /* this backend does not have the operation or the option */
  GRPO_DEVICE_LOST = 4       /* every later call fails too */
} grpo_status;

/* A view of device memory: rows of `shape[rank - 1]` adjacent elements, `row_stride` elements from one row to the next
 * (all leading dimensions are rows). An absent optional tensor has data == NULL. */
typedef struct grpo_tensor {
  void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[GRPO_MAX_RANK];
  int64_t row_stride;
} grpo_tensor;

typedef struct grpo_context grpo_context;
typedef struct grpo_graph grpo_graph; /* operations that were captured */

/* T(name): a tensor; S(name): a scalar (a double; flags are 0 or 1, enumerations are listed at the end). */

/* clang-format off */
/* memory */
#define GRPO_FIELDS_fill(T, S) T(out) S(value)
#define GRPO_FIELDS_copy(T, S) T(in) T(out)
#define GRPO_FIELDS_gather_rows(T, S) T(in) T(indices) T(out)
#define GRPO_FIELDS_scatter_rows(T, S) T(in) T(indices) T(out)

/* decoder */
#define GRPO_FIELDS_add(T, S) T(a) T(b) T(out) S(alpha) S(beta)
#define GRPO_FIELDS_matmul(T, S) T(a) T(b) T(bias) T(out) S(transpose_a) S(transpose_b) S(accumulate)
#define GRPO_FIELDS_column_sum(T, S) T(in) T(out)
#define GRPO_FIELDS_embedding(T, S) T(table) T(ids) T(out)
#define GRPO_FIELDS_embedding_backward(T, S) T(grad_out) T(ids) T(grad_table)
#define GRPO_FIELDS_rms_norm(T, S) T(in) T(weight) T(out) T(inverse_rms) S(epsilon)
#define GRPO_FIELDS_rms_norm_backward(T, S) \
  T(in) T(weight) T(inverse_rms) T(grad_out) T(grad_in) T(grad_weight) S(accumulate)
#define GRPO_FIELDS_rope(T, S) T(in) T(positions) T(inverse_frequencies) T(out) S(head_dim) S(backward)
#define GRPO_FIELDS_attention(T, S) \
  T(queries) T(keys) T(values) T(sequence_offsets) T(parents) T(out) T(log_sum_exp) S(head_dim) S(scale) S(max_length)
#define GRPO_FIELDS_attention_backward(T, S)                                                                       \
  T(queries) T(keys) T(values) T(sequence_offsets) T(parents) T(out) T(log_sum_exp) T(grad_out) T(grad_queries)    \
      T(grad_keys) T(grad_values) S(head_dim) S(scale) S(max_length)
#define GRPO_FIELDS_cached_attention(T, S) \
  T(queries) T(key_cache) T(value_cache) T(segments) T(out) S(head_dim) S(scale) S(max_length)
#define GRPO_FIELDS_swiglu(T, S) T(gate) T(up) T(out)
#define GRPO_FIELDS_swiglu_backward(T, S) T(gate) T(up) T(grad_out) T(grad_gate) T(grad_up)
#define GRPO_FIELDS_sample(T, S) T(logits) T(keys) T(ids) T(log_probs) S(temperature) S(top_k) S(top_p) S(min_p)

/* GRPO */
#define GRPO_FIELDS_token_log_probs(T, S) \
  T(logits) T(targets) T(mask) T(log_probs) T(entropy) T(log_sum_exp) S(temperature) S(softcap)
#define GRPO_FIELDS_token_log_probs_backward(T, S)                                                               \
  T(logits) T(targets) T(log_sum_exp) T(entropy) T(grad_log_probs) T(grad_entropy) T(grad_logits) S(temperature) \
      S(softcap) S(vocab_start) S(vocab_size)
#define GRPO_FIELDS_token_log_probs_partial(T, S) \
  T(logits) T(targets) T(partial) S(temperature) S(softcap) S(vocab_start) S(vocab_size)
#define GRPO_FIELDS_token_log_probs_merge(T, S) T(partials) T(log_probs) T(entropy) T(log_sum_exp)
#define GRPO_FIELDS_linear_token_log_probs(T, S)                                                           \
  T(hidden) T(weight) T(targets) T(log_probs) T(entropy) T(log_sum_exp) S(temperature) S(softcap) \
      S(workspace_bytes)
#define GRPO_FIELDS_linear_token_log_probs_backward(T, S)                                                         \
  T(hidden) T(weight) T(targets) T(log_sum_exp) T(entropy) T(grad_log_probs) T(grad_entropy) T(grad_hidden) \
      T(grad_weight) S(temperature) S(softcap) S(workspace_bytes)
#define GRPO_FIELDS_group_advantages(T, S) \
  T(rewards) T(group_offsets) T(advantages) S(baseline) S(scale) S(epsilon)
#define GRPO_FIELDS_entropy_threshold(T, S) T(entropy) T(mask) T(threshold) S(top_entropy_quantile)
#define GRPO_FIELDS_policy_loss(T, S)                                                                             \
  T(log_probs) T(old_log_probs) T(ref_log_probs) T(rollout_log_probs) T(entropy) T(entropy_threshold)             \
      T(advantages) T(mask) T(sequence_offsets) T(loss) T(grad_log_probs) T(grad_entropy) T(statistics)            \
      S(loss_type) S(sequence_level) S(epsilon) S(epsilon_high) S(delta) S(beta) S(kl_estimator)                   \
      S(bias_corrected_kl) S(entropy_coefficient) S(off_policy_mask_threshold) S(sapo_temperature_positive)       \
      S(sapo_temperature_negative) S(vespo_k_positive) S(vespo_lambda_positive) S(vespo_k_negative)               \
      S(vespo_lambda_negative) S(rollout_correction) S(rollout_cap) S(rollout_min) S(rollout_geometric)           \
      S(max_completion_length) S(token_denominator) S(sequence_denominator)
#define GRPO_FIELDS_policy_loss_from_logits(T, S)                                                                 \
  T(logits) T(targets) T(old_log_probs) T(ref_log_probs) T(rollout_log_probs) T(entropy_threshold) T(advantages)  \
      T(mask) T(sequence_offsets) T(log_probs) T(entropy) T(log_sum_exp) T(loss) T(grad_log_probs)                 \
      T(grad_entropy) T(statistics) T(grad_logits) S(temperature) S(softcap) S(loss_type) S(sequence_level)        \
      S(epsilon) S(epsilon_high) S(delta) S(beta) S(kl_estimator) S(bias_corrected_kl) S(entropy_coefficient)      \
      S(off_policy_mask_threshold) S(sapo_temperature_positive) S(sapo_temperature_negative) S(vespo_k_positive)   \
      S(vespo_lambda_positive) S(vespo_k_negative) S(vespo_lambda_negative) S(rollout_correction) S(rollout_cap)   \
      S(rollout_min) S(rollout_geometric) S(max_completion_length) S(token_denominator) S(sequence_denominator)

/* optimiser */
#define GRPO_FIELDS_global_norm(T, S) T(in) T(norm)
#define GRPO_FIELDS_adamw(T, S)                                                                                  \
  T(parameters) T(gradients) T(first_moment) T(second_moment) T(model_weights) T(norm) S(learning_rate) S(beta1) \
      S(beta2) S(epsilon) S(weight_decay) S(step) S(max_norm)

#define GRPO_OPERATIONS(X)                                                                                    \
  X(fill) X(copy) X(gather_rows) X(scatter_rows)                                                               \
  X(add) X(matmul) X(column_sum) X(embedding) X(embedding_backward) X(rms_norm) X(rms_norm_backward) X(rope)   \
  X(attention) X(attention_backward) X(cached_attention) X(swiglu) X(swiglu_backward) X(sample)                \
  X(token_log_probs) X(token_log_probs_backward) X(token_log_probs_partial) X(token_log_probs_merge)           \
  X(linear_token_log_probs) X(linear_token_log_probs_backward) X(group_advantages) X(entropy_threshold)         \
  X(policy_loss) X(policy_loss_from_logits) X(global_norm) X(adamw)

/* clang-format on */
#define GRPO_TENSOR_FIELD(name) grpo_tensor name;
#define GRPO_SCALAR_FIELD(name) double name;
#define GRPO_DECLARE_ARGS(op)                              \
  typedef struct grpo_##op##_args {                        \
    GRPO_FIELDS_##op(GRPO_TENSOR_FIELD, GRPO_SCALAR_FIELD) \
  } grpo_##op##_args;
GRPO_OPERATIONS(GRPO_DECLARE_ARGS)

typedef struct grpo_memory {
  uint64_t live_bytes;     /* handed out and not released */
  uint64_t reserved_bytes; /* live plus cached for reuse */
  uint64_t peak_bytes;     /* highest live_bytes so far */
} grpo_memory;

#define GRPO_DECLARE_FUNCTION(op) grpo_status (*op)(grpo_context*, const grpo_##op##_args*);

typedef struct grpo_backend {
  uint32_t abi_version; /* GRPO_ABI_VERSION of the library */
  uint32_t struct_size; /* sizeof(grpo_backend) of the library */
  const char* kind;     /* "cpu", "cuda" */

  int (*device_count)(void);
  /* `options` is "key=value;key=value" (cpu: threads, isa, matmul). On failure writes a message. */
  grpo_status (*create)(int ordinal, const char* options, grpo_context** context, char* message, size_t message_size);
  void (*destroy)(grpo_context*);
  /* "key=value" lines: name, and what a person wants to know (isa, threads, matmul, driver). Valid until destroy. */
  const char* (*describe)(grpo_context*);
  /* Message of the last call that did not return GRPO_OK. Valid until the next call. */
  const char* (*last_error)(grpo_context*);

  grpo_status (*allocate)(grpo_context*, size_t bytes, void** data);
  void (*release)(grpo_context*, void* data);
  grpo_status (*upload)(grpo_context*, void* device, const void* host, size_t bytes);
  grpo_status (*download)(grpo_context*, void* host, const void* device, size_t bytes);
  grpo_status (*synchronize)(grpo_context*);
  /* Order between this context and a stream of somebody else on the same device (a cudaStream_t; NULL is the default
   * stream), without waiting on the host: what is queued here from now on runs after what `stream` holds, or what is
   * queued on `stream` from now on runs after what this context holds. GRPO_UNSUPPORTED where there are no streams. */
  grpo_status (*wait_for_stream)(grpo_context*, void* stream);
  grpo_status (*let_stream_wait)(grpo_context*, void* stream);
  void (*memory)(grpo_context*, grpo_memory*);

  /* Operations that run again and again as one graph. Between begin_capture and end_capture they are noted with their
   * addresses and scalars, not carried out, and their index tensors are not checked. GRPO_UNSUPPORTED from any of them:
   * this backend notes nothing, or not this operation. end_capture drops what was noted when `graph` is NULL, and must
   * follow every begin_capture that gave GRPO_OK. launch_graph queues what was noted; GRPO_UNSUPPORTED: scratch space
   * that it uses has moved since, nothing was queued, capture again. release_graph waits until it has run. */
  grpo_status (*begin_capture)(grpo_context*);
  grpo_status (*end_capture)(grpo_context*, grpo_graph** graph);
  grpo_status (*launch_graph)(grpo_context*, grpo_graph* graph);
  void (*release_graph)(grpo_context*, grpo_graph* graph);

  GRPO_OPERATIONS(GRPO_DECLARE_FUNCTION)
} grpo_backend;

/* Linked into the addon. */
const grpo_backend* grpo_cpu_backend(void);
/* Exported by libgrpo_cuda.so. */
const grpo_backend* grpo_cuda_backend(void);

/* Values of enumerated scalars. */
enum { GRPO_BASELINE_MEAN = 0, GRPO_BASELINE_LEAVE_ONE_OUT = 1, GRPO_BASELINE_NONE = 2 };
enum { GRPO_SCALE_GROUP = 0, GRPO_SCALE_BATCH = 1, GRPO_SCALE_NONE = 2 };
enum {
  GRPO_LOSS_GRPO = 0,
  GRPO_LOSS_BNPO = 1,
  GRPO_LOSS_DAPO = 2,
  GRPO_LOSS_DR_GRPO = 3,
  GRPO_LOSS_LUSPO = 4,
  GRPO_LOSS_CISPO = 5,
  GRPO_LOSS_SAPO = 6,
  GRPO_LOSS_VESPO = 7
};
enum { GRPO_KL_K1 = 0, GRPO_KL_K2 = 1, GRPO_KL_K3 = 2 };
enum {
  GRPO_CORRECTION_NONE = 0,
  GRPO_CORRECTION_TOKEN_TRUNCATE = 1,
  GRPO_CORRECTION_TOKEN_MASK = 2,
  GRPO_CORRECTION_SEQUENCE_TRUNCATE = 3,
  GRPO_CORRECTION_SEQUENCE_MASK = 4
};

#ifdef __cplusplus
}
#endif
#endif
