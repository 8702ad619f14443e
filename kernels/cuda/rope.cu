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

  // N adjacent pairs of one head.
  template <int N>
  __device__ void turn(int64_t row, int64_t n) const {
    const int64_t i = n % half, low = n / half * 2 * half + i, high = low + half;
    const float position = static_cast<float>(positions[row]);
    Floats<N> x = in.load<N>(row, low), y = in.load<N>(row, high);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      // The angle is a float32 product, as transformers has it.
      float sine, cosine;
      sincosf(position * inverse_frequencies[i + k], &sine, &cosine);
      sine *= direction;
      const float a = x.item[k], b = y.item[k];
      x.item[k] = a * cosine - b * sine;
      y.item[k] = b * cosine + a * sine;
    }
    out.store<N>(row, low, x);
    out.store<N>(row, high, y);
  }
  template <int N>
  __device__ void at(int64_t row, int64_t n) const {
    if (half % N == 0) return turn<N>(row, n);
#pragma unroll
    for (int k = 0; k < N; ++k) turn<1>(row, n + k);
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
  return for_elements<4>(context, args.in.shape[0], args.in.shape[1] / 2, body, args.in, args.out);
}

}  // namespace grpo_cuda
