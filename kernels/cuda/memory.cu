// fill, copy, gather_rows, scatter_rows.

#include "operations.h"
#include "rows.h"

namespace grpo_cuda {

namespace {

struct FillFloats {
  FloatRows out;
  float value;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    Floats<N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values.item[i] = value;
    out.store<N>(row, column, values);
  }
};

struct FillIntegers {
  int32_t* out;
  int64_t stride;
  int32_t value;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
#pragma unroll
    for (int i = 0; i < N; ++i) out[row * stride + column + i] = value;
  }
};

struct ConvertBody {
  FloatRows in, out;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    out.store<N>(row, column, in.load<N>(row, column));
  }
};

// Rows of elements of one size, whatever they are; `from_index` and `to_index` (nullptr: the row itself) say where a
// row comes from and goes to. A row whose index is out of range stays as it is.
template <class T>
struct MoveRows {
  const T* in;
  T* out;
  int64_t in_stride, out_stride;
  const int32_t *from_index, *to_index;
  int64_t from_rows, to_rows;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    struct alignas(sizeof(T) * N) Items {
      T item[N];
    };
    const int64_t from = from_index ? from_index[row] : row, to = to_index ? to_index[row] : row;
    if (from < 0 || from >= from_rows || to < 0 || to >= to_rows) return;
    *reinterpret_cast<Items*>(out + to * out_stride + column) =
        *reinterpret_cast<const Items*>(in + from * in_stride + column);
  }
};

grpo_status move_rows(grpo_context& context, const grpo_tensor& in, const grpo_tensor& out, const int32_t* from_index,
                      const int32_t* to_index, int64_t rows) {
  const int64_t columns = in.shape[1];
  const auto move = [&](auto type) {
    using T = decltype(type);
    const MoveRows<T> body = {static_cast<const T*>(in.data),
                              static_cast<T*>(out.data),
                              in.row_stride,
                              out.row_stride,
                              from_index,
                              to_index,
                              in.shape[0],
                              out.shape[0]};
    return for_elements(context, rows, columns, body, in, out);
  };
  const grpo_status status = element_bytes(in) == 2 ? move(uint16_t{}) : move(uint32_t{});
  context.written(out);
  return status;
}

}  // namespace

grpo_status convert_floats(grpo_context& context, const grpo_tensor& in, const grpo_tensor& out) {
  return for_elements(context, row_count(out), column_count(out), ConvertBody{float_rows(in), float_rows(out)}, in,
                      out);
}

grpo_status gather_chosen(grpo_context& context, const grpo_tensor& in, const grpo_tensor& indices,
                          const grpo_tensor& out) {
  return move_rows(context, in, out, int_data(indices), nullptr, indices.shape[0]);
}

grpo_status scatter_chosen(grpo_context& context, const grpo_tensor& in, const grpo_tensor& indices,
                           const grpo_tensor& out) {
  return move_rows(context, in, out, nullptr, int_data(indices), indices.shape[0]);
}

grpo_status fill(grpo_context& context, const grpo_fill_args& args) {
  const int64_t rows = row_count(args.out), columns = column_count(args.out);
  if (args.out.dtype == GRPO_I32) {
    context.written(args.out);
    const FillIntegers body = {int_data(args.out), args.out.row_stride, static_cast<int32_t>(args.value)};
    return for_elements(context, rows, columns, body, args.out);
  }
  const FillFloats body = {float_rows(args.out), static_cast<float>(args.value)};
  return for_elements(context, rows, columns, body, args.out);
}

grpo_status copy(grpo_context& context, const grpo_copy_args& args) {
  if (auto status = check_copy(context, args)) return status;
  const grpo_tensor &in = args.in, &out = args.out;
  if (in.dtype != out.dtype) return convert_floats(context, in, out);
  const int64_t rows = row_count(out), columns = column_count(out), bytes = element_bytes(out);
  if (rows == 0 || columns == 0) return GRPO_OK;
  context.written(out);
  const int64_t width = columns * bytes, in_pitch = in.row_stride * bytes, out_pitch = out.row_stride * bytes;
  const auto copy_from = [&](int64_t row, int64_t size) {
    return cudaMemcpyAsync(static_cast<char*>(out.data) + row * out_pitch,
                           static_cast<const char*>(in.data) + row * in_pitch, size, cudaMemcpyDeviceToDevice,
                           context.stream());
  };
  cudaError_t error = cudaSuccess;
  if (rows == 1 || (in_pitch == width && out_pitch == width)) {
    error = copy_from(0, rows * width);
  } else if (std::max(in_pitch, out_pitch) <= INT32_MAX) {  // CUDA takes no larger pitch
    error = cudaMemcpy2DAsync(out.data, out_pitch, in.data, in_pitch, width, rows, cudaMemcpyDeviceToDevice,
                              context.stream());
  } else {
    for (int64_t row = 0; row < rows && error == cudaSuccess; ++row) error = copy_from(row, width);
  }
  return error == cudaSuccess ? GRPO_OK : context.fail_with(error, "cudaMemcpyAsync on the device");
}

grpo_status gather_rows(grpo_context& context, const grpo_gather_rows_args& args) {
  if (auto status = check_gather_rows(context, args)) return status;
  return gather_chosen(context, args.in, args.indices, args.out);
}

grpo_status scatter_rows(grpo_context& context, const grpo_scatter_rows_args& args) {
  if (auto status = check_scatter_rows(context, args)) return status;
  return scatter_chosen(context, args.in, args.indices, args.out);
}

}  // namespace grpo_cuda
