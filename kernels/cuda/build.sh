#!/bin/sh
# Builds build-cuda/libgrpo_cuda.so with nvcc alone, for this machine's GPU or ARCHITECTURE (sm_90, say): no Node, no checks
# of what kernels take, which `npm run build:cuda` makes.
cd "$(dirname "$0")/../.." && mkdir -p build-cuda/objects || exit
ls kernels/cuda/*.cu kernels/common/error_record.cc | xargs -P "$(nproc)" -I{} sh -c \
  'nvcc -c -std=c++20 -O3 -fmad=false -lineinfo -arch="$1" -Xcompiler=-fPIC,-fvisibility=hidden {} -o build-cuda/objects/$(basename {}).o' \
  sh "${ARCHITECTURE:-native}" &&
  nvcc -shared -cudart static build-cuda/objects/*.o -o build-cuda/libgrpo_cuda.so -ldl
