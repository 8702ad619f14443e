// rope.

#include "operations.h"

namespace grpo_cuda {

namespace {

// An element of the loop is a pair: the n-th of a row is pair n % half of head n / half.
struct RopeBody {
  FloatRows in, out;
  const int32_t* positions;
  const float* inverse_frequencies;
  int64_t half;
  float direction;  // -1 turns back

  template <int N>
  __device__ void at(int64_t row, int64_t n) const {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int64_t i = (n + k) % half, low = (n + k) / half * 2 * half + i, high = low + half;
      // The angle is a float32 product, as transformers has it.
      float sine, cosine;
      sincosf(static_cast<float>(positions[row]) * inverse_frequencies[i], &sine, &cosine);
      sine *= direction;
      const float x = in.load(row, low), y = in.load(row, high);
      out.store(row, low, x * cosine - y * sine);
      out.store(row, high, y * cosine + x * sine);
    }
  }
};

}  // namespace

grpo_status rope(grpo_context& context, const grpo_rope_args& args) {
  if (auto status = check_rope(context, args)) return status;
  const RopeBody body = {float_rows(args.in),
                         float_rows(args.out),
                         int_data(args.positions),
                         float_data(args.inverse_frequencies),
                         args.inverse_frequencies.shape[0],
                         args.backward != 0 ? -1.0f : 1.0f};
  return for_elements(context, args.in.shape[0], args.in.shape[1] / 2, body, args.in, args.out);
}

}  // namespace grpo_cuda
