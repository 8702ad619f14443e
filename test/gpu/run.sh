#!/bin/sh
# What only a GPU shows, most important first, on a machine with an NVIDIA driver and nothing of this repository but the
# folder build-cuda/tests (node scripts/bundle-cuda-tests.mjs makes it):
#
#   sh run.sh [FOLDER]        results and log.txt go to FOLDER (results), after each part
#
# Parts: build (nvcc; where the folder holds no library), suite (Node), example (PyTorch), kernels (PyTorch), training
# (Node, PyTorch, transformers), memory (Node, compute-sanitizer). PARTS="suite kernels" takes some of them, SECONDS_IN_ALL
# (530) is the most that all may take; GRPO_PYTHON is the Python that has torch (python3). What a part needs and is not
# there ends that part alone.
cd "$(dirname "$0")" || exit
here=$PWD
results=${1:-results}
mkdir -p "$results" && results=$(cd "$results" && pwd) || exit
log=$results/log.txt
python=${GRPO_PYTHON:-python3}
end=$(($(date +%s) + ${SECONDS_IN_ALL:-530}))
on_cpu=${GRPO_ON_CPU:+1} # set: the library is test/cuda-on-cpu's stand-in, and sizes are small
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

say() { echo "$@" | tee -a "$log"; }

# part NAME SECONDS COMMAND...: under a limit, its output kept
part() {
  name=$1 limit=$2
  shift 2
  case " ${PARTS:-build suite example kernels training memory} " in *" $name "*) ;; *) return ;; esac
  left=$((end - $(date +%s) - 5))
  [ "$limit" -lt "$left" ] || limit=$left
  if [ "$limit" -lt 10 ]; then
    say "== $name: no time is left"
    return
  fi
  say "== $name, at most $limit s"
  began=$(date +%s)
  { timeout -k 5 "$limit" "$@" 2>&1; echo $? >"$log.status"; } | tee -a "$log"
  say "== $name: exit code $(cat "$log.status") after $(($(date +%s) - began)) s"
  rm -f "$log.status"
}

facts() {
  uname -srm
  nvidia-smi
  nvcc --version
  [ -n "$node" ] && echo "Node $("$node" --version)"
  "$python" -c '
import sys
from importlib import metadata
print("Python", sys.version.split()[0])
for name in ("torch", "transformers", "triton", "quack-kernels", "liger-kernel", "cut-cross-entropy"):
    try: print(name, metadata.version(name))
    except metadata.PackageNotFoundError: print(name, "none")'
}

# Where cuBLAS and NCCL lie when only Python's packages have them, and the toolkit's own.
library_folders() {
  "$python" -c '
import glob, os, sys
for name in ("libcublas.so.1[0-9]", "libnccl.so.2"):
    found = [f for p in sys.path for f in glob.glob(os.path.join(p, "nvidia", "*", "lib", name))]
    if found: print(os.path.dirname(found[0]), end=":")'
  toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
  printf %s "$toolkit/lib64:"
}

command -v nvcc >/dev/null || export PATH="$PATH:/usr/local/cuda/bin"
export LD_LIBRARY_PATH="$(library_folders)${LD_LIBRARY_PATH:-}"
for file in node build-cuda/libgrpo_cuda.so; do
  [ -f $file.xz ] && [ ! -f $file ] || continue
  xz -dk $file.xz 2>/dev/null || "$python" -c '
import lzma, shutil, sys
with lzma.open(sys.argv[1] + ".xz") as packed, open(sys.argv[1], "wb") as file: shutil.copyfileobj(packed, file)' $file
  chmod +x $file
done
node=$here/node # the one that was packed, where it runs
"$node" --version >/dev/null 2>&1 || node=$(command -v node)

: >"$log"
facts 2>&1 | tee -a "$log"
say "LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
library=$here/build-cuda/libgrpo_cuda.so
[ -n "$on_cpu" ] && library=$GRPO_CUDA_LIBRARY
[ -f "$library" ] || part build 180 sh kernels/cuda/build.sh
[ -n "$node" ] && part suite 150 "$node" suite.mjs --steps suites,nccl --seconds 60 --results "$results"
part example 60 "$python" examples/pytorch/check.py "$library"
part kernels 210 "$python" bench/cuda/measure_kernels.py ${on_cpu:+--device cuda-on-cpu} --library "$library" \
  --budget-seconds 150 --row-seconds 60 --out "$results/cuda-kernels"
[ -n "$node" ] && part training 150 "$node" bench.mjs --only training --python "$python" --budget-seconds 60
cp bench/results/cuda-training-* "$results" 2>/dev/null
[ -n "$node" ] && part memory 120 "$node" suite.mjs --steps memory --seconds 60 --results "$results"
exit 0
