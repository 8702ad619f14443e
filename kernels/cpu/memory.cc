// fill, copy, gather_rows, scatter_rows. Compiled once an instruction set (isa/kernels.inc).

constexpr int64_t kCopyGrain = 16384;  // elements; smaller pieces cost more in hand-over than they gain

template <class To, class From>
void convert_row(To* to, const From* from, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) vstore(to + i, vload(from + i));
  if (i < n) vstore_part(to + i, static_cast<int>(n - i), vload_part(from + i, static_cast<int>(n - i)));
}

char* row_address(const grpo_tensor& t, int64_t row) {
  return static_cast<char*>(t.data) + row * t.row_stride * element_bytes(t);
}

int64_t row_grain(int64_t columns) { return std::max<int64_t>(1, kCopyGrain / std::max<int64_t>(columns, 1)); }

grpo_status fill(grpo_context& context, const grpo_fill_args& args) {
  const grpo_tensor& out = args.out;
  const int64_t columns = column_count(out);
  const auto fill_rows = [&](auto* data, auto value) {
    parallel_for(context, row_count(out), row_grain(columns), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) std::fill_n(data + row * out.row_stride, columns, value);
    });
  };
  if (out.dtype == GRPO_I32) {
    fill_rows(static_cast<int32_t*>(out.data), static_cast<int32_t>(args.value));
  } else {
    with_float_type(out, [&](auto* data) {
      fill_rows(data, from_float<std::remove_pointer_t<decltype(data)>>(static_cast<float>(args.value)));
    });
  }
  return GRPO_OK;
}

grpo_status copy(grpo_context& context, const grpo_copy_args& args) {
  const grpo_tensor &in = args.in, &out = args.out;
  const int64_t columns = column_count(out);
  if (auto status = check_copy(context, args)) return status;
  const bool same = in.dtype == out.dtype;
  parallel_for(context, row_count(out), row_grain(columns), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      if (same) {
        std::memcpy(row_address(out, row), row_address(in, row), columns * element_bytes(out));
        continue;
      }
      with_float_type(in, [&](auto* from) {
        with_float_type(out,
                        [&](auto* to) { convert_row(to + row * out.row_stride, from + row * in.row_stride, columns); });
      });
    }
  });
  return GRPO_OK;
}

grpo_status gather_rows(grpo_context& context, const grpo_gather_rows_args& args) {
  if (auto status = check_gather_rows(context, args)) return status;
  const int32_t* index = static_cast<const int32_t*>(args.indices.data);
  const size_t bytes = args.out.shape[1] * element_bytes(args.out);
  parallel_for(context, args.out.shape[0], row_grain(args.out.shape[1]), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(row_address(args.out, i), row_address(args.in, index[i]), bytes);
  });
  return GRPO_OK;
}

grpo_status scatter_rows(grpo_context& context, const grpo_scatter_rows_args& args) {
  if (auto status = check_scatter_rows(context, args)) return status;
  const int32_t* index = static_cast<const int32_t*>(args.indices.data);
  const size_t bytes = args.in.shape[1] * element_bytes(args.in);
  parallel_for(context, args.in.shape[0], row_grain(args.in.shape[1]), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(row_address(args.out, index[i]), row_address(args.in, i), bytes);
  });
  return GRPO_OK;
}
