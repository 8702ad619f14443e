// The instructions of kernels/cuda/tensor_cores.h on the processor against plain products. Where an element lies is
// written the other way round than in the emulation: from the element to the lane. Prints what is wrong, or "right".

#include "../../../kernels/cuda/tensor_cores.h"

#include <cstdio>
#include <vector>

namespace {

using namespace grpo_cuda;

int wrong = 0;

void expect(bool right, const char* what, int row, int column) {
  if (!right && ++wrong <= 20) std::printf("%s: row %d, column %d\n", what, row, column);
}

template <class Body>
void run_warps(int warps, size_t shared, Body body) {
  cuda_on_cpu::run(
      dim3(2), dim3(kWarp, warps), 1, shared, [](void* b) { (*static_cast<Body*>(b))(); }, &body);
}

// Small whole numbers: sums are exact in any order.
float left_at(int warp, int row, int k) { return float((row * 5 + k * 3 + warp) % 11 - 5); }
float right_at(int warp, int k, int column) { return float((k * 7 + column * 2 + 3 * warp) % 13 - 6); }
float start_at(int row, int column) { return float(100 * row + column); }

bf16& half(unsigned& pair, int i) { return reinterpret_cast<bf16*>(&pair)[i]; }

void check_product() {
  float sums[2][kWarp][4];
  unsigned a[2][kWarp][4], b[2][kWarp][2];
  for (int warp = 0; warp < 2; ++warp) {
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k)
        half(a[warp][row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2) = to_bf16(left_at(warp, row, k));
      for (int column = 0; column < 8; ++column)
        sums[warp][row % 8 * 4 + column / 2][row / 8 * 2 + column % 2] = start_at(row, column);
    }
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column)
        half(b[warp][column * 4 + k % 8 / 2][k / 8], k % 2) = to_bf16(right_at(warp, k, column));
    }
  }
  run_warps(2, 0, [&] {
    if (blockIdx.x > 0) return;
    const int warp = threadIdx.y, lane = threadIdx.x;
    multiply_add(sums[warp][lane], a[warp][lane], b[warp][lane][0], b[warp][lane][1]);
  });
  for (int warp = 0; warp < 2; ++warp) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float truth = start_at(row, column);
        for (int k = 0; k < 16; ++k) truth += left_at(warp, row, k) * right_at(warp, k, column);
        expect(sums[warp][row % 8 * 4 + column / 2][row / 8 * 2 + column % 2] == truth, "mma", row, column);
      }
    }
  }
}

// Four matrices whose rows lie anywhere: matrix m, row r at 16 bytes number 5 (4 r + m) % 32.
void check_matrices() {
  unsigned got[2][kWarp][4];
  run_warps(1, 512, [&] {
    const int lane = threadIdx.x;
    auto* memory = dynamic_shared<uint16_t>();
    const auto place = [](int m, int row) { return 5 * (4 * row + m) % 32 * 8; };
    for (int column = 0; column < 8; ++column)
      memory[place(lane / 8, lane % 8) + column] = uint16_t(lane / 8 * 100 + lane % 8 * 10 + column);
    __syncthreads();
    const SharedAddress row = shared_address(memory + place(lane / 8, lane % 8));
    load_matrices(got[0][lane], row);
    load_matrices_transposed(got[1][lane], row);
  });
  for (int m = 0; m < 4; ++m) {
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 8; ++column) {
        const int value = m * 100 + row * 10 + column;
        expect(half(got[0][row * 4 + column / 2][m], column % 2).bits == value, "ldmatrix", m * 8 + row, column);
        expect(half(got[1][column * 4 + row / 2][m], row % 2).bits == value, "ldmatrix.trans", m * 8 + row, column);
      }
    }
  }
}

// Sums of one product as the left operand of the next.
void check_left_operand() {
  unsigned a[kWarp][4];
  run_warps(1, 0, [&] {
    const int lane = threadIdx.x;
    float blocks[2][4];
    for (int block = 0; block < 2; ++block) {
      for (int i = 0; i < 4; ++i) blocks[block][i] = left_at(0, lane / 4 + i / 2 * 8, block * 8 + lane % 4 * 2 + i % 2);
    }
    left_operand(a[lane], blocks[0], blocks[1]);
  });
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      const bf16 x = half(a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
      expect(to_float(x) == left_at(0, row, k), "left operand", row, k);
    }
  }
}

// What a thread copies is there after it has waited, and seen by others after a barrier; before, it is not.
void check_copies() {
  std::vector<bf16> from(kWarp * 8 + 8);
  auto* aligned = reinterpret_cast<bf16*>((reinterpret_cast<uintptr_t>(from.data()) + 15) / 16 * 16);
  for (int i = 0; i < kWarp * 8; ++i) aligned[i] = {uint16_t(i + 1)};
  run_warps(1, 2 * kWarp * 16, [&] {
    const int lane = threadIdx.x, other = (lane + 7) % kWarp;
    auto* to = dynamic_shared<bf16>();
    copy_async(shared_address(to + lane * 8), aligned + lane * 8, true);
    copy_async(shared_address(to + (kWarp + lane) * 8), aligned + lane * 8, false);
    for (int i = 0; i < 8; ++i) expect(to[lane * 8 + i].bits == 0x4242, "cp.async too early", lane, i);
    wait_for_copies();
    __syncthreads();
    for (int i = 0; i < 8; ++i) {
      expect(to[other * 8 + i].bits == other * 8 + i + 1, "cp.async", lane, i);
      expect(to[(kWarp + other) * 8 + i].bits == 0, "cp.async of zeros", lane, i);
    }
  });
}

}  // namespace

int main() {
  check_product();
  check_matrices();
  check_left_operand();
  check_copies();
  if (wrong == 0) std::puts("right");
  return wrong != 0;
}
