"""Runs rows of the CUDA benchmark, from --first on, and writes to the file descriptor --to, a line of JSON each: what is known
of a row when it begins, and its entry (null where --only leaves it out) when it ends. Started by measure_kernels.py, and again
after a row that ended it."""

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples/pytorch"))

parser = argparse.ArgumentParser()
parser.add_argument("--device", required=True)
parser.add_argument("--library", required=True)
parser.add_argument("--budget-seconds", type=float, required=True)
parser.add_argument("--rounds", type=int, required=True)
parser.add_argument("--only", required=True)
parser.add_argument("--first", type=int, required=True)
parser.add_argument("--to", type=int, required=True)
options = parser.parse_args()
answers = os.fdopen(options.to, "w")


def tell(**message):
    print(json.dumps(message), file=answers, flush=True)


on_gpu = options.device == "cuda"
if not on_gpu:
    os.environ.setdefault("GRPO_CUBLAS_LIBRARY", str(Path(options.library).parent / "libcublas.so"))
try:
    import torch
except ImportError:
    tell(unable="this Python has no torch; name one that has with --python, or GRPO_PYTHON")
    sys.exit()

from grpo_kernels import Kernels  # noqa: E402
from measure import Gpu, StandIn, measure, new_entry  # noqa: E402
from rows import FULL, TINY, Rows  # noqa: E402

if on_gpu and not torch.cuda.is_available():
    tell(unable="PyTorch sees no CUDA device")
    sys.exit()


def versions():
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return (f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, Triton {triton_version}, "
            f"CUDA {torch.version.cuda}")


def is_lost():
    """Whether CUDA takes nothing more from this process."""
    try:
        device.synchronize()
        return False
    except RuntimeError:
        return True


torch.manual_seed(0)
start = time.monotonic()
device = Gpu() if on_gpu else StandIn()
rows = Rows(device.kind, FULL if on_gpu else TINY)
makers = list(rows.all())
tell(rows=len(makers), gpu=torch.cuda.get_device_name() if on_gpu else None, versions=versions(),
     rates=device.rates() if on_gpu else None)
for i, make in list(enumerate(makers))[options.first:]:
    left = options.budget_seconds - (time.monotonic() - start)
    entry = row = rows.kernels = None
    begun = new_entry(f"row {i + 1}")
    tell(row=i, begun=begun)
    try:
        # A context for each row: its scratch space then counts as extra memory of that row.
        rows.kernels = Kernels(options.library, torch.cuda.current_device() if on_gpu else 0)
        row = make()
        if options.only in row.task:
            begun = new_entry(row.task)
            tell(row=i, begun=begun)
            entry = measure(row, device, options.rounds, max(left, 0) / (len(makers) - i))
    except (RuntimeError, MemoryError) as error:  # no memory for the row, say
        entry = begun | {"failures": {"ours": device.first_line(error)}}
    tell(row=i, entry=entry)
    if is_lost():
        break
    row = None
    gc.collect()
    if rows.kernels:
        rows.kernels.close()
    if on_gpu:
        torch.cuda.empty_cache()
