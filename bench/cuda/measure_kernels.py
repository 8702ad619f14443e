"""The CUDA kernels beside PyTorch (eager, compiled, SDPA), Triton and cuBLAS, on one GPU in one run that takes the
sides in turn. Every peer must give our results before it is timed. Needs torch, and Triton for some peers; no Node.

    npm run build:cuda
    python bench/cuda/measure_kernels.py [--budget-seconds 240] [--library build-cuda/libgrpo_cuda.so]

Writes bench/results/cuda-kernels-<gpu>.{json,md}. With --device cuda-on-cpu the comparisons alone run, at small sizes,
with the kernels that test/cuda-on-cpu builds for the processor; nothing is timed or written.
"""

import argparse
import datetime
import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples/pytorch"))


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cuda-on-cpu"], default="cuda")
    parser.add_argument("--library", help="libgrpo_cuda.so; that of the device's build unless it is given")
    parser.add_argument("--budget-seconds", type=float, default=240, help="rounds are left out beyond it, rows are not")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--out", help="results go to <out>.json and <out>.md")
    options = parser.parse_args()
    if options.budget_seconds <= 0 or options.rounds < 1:
        parser.error("--budget-seconds and --rounds: expected numbers above 0")
    return options


options = arguments()
on_gpu = options.device == "cuda"
library = Path(options.library or ROOT / ("build-cuda" if on_gpu else "build-cuda-on-cpu") / "libgrpo_cuda.so")
if not library.exists():
    build = "npm run build:cuda" if on_gpu else "node scripts/build-cuda-on-cpu.mjs"
    sys.exit(f"bench:cuda: there is no {library.name} in {library.parent.name}/: {build}")
if not on_gpu:
    os.environ.setdefault("GRPO_CUBLAS_LIBRARY", str(library.parent / "libcublas.so"))
try:
    import torch
except ImportError:
    sys.exit("bench:cuda: this Python has no torch; name one that has with --python, or GRPO_PYTHON")

from grpo_kernels import Kernels  # noqa: E402
from measure import Gpu, StandIn, measure, new_entry  # noqa: E402
from rows import FULL, TINY, Rows  # noqa: E402

if on_gpu and not torch.cuda.is_available():
    sys.exit("bench:cuda needs a CUDA device, and PyTorch sees none")


def milliseconds(seconds):
    return f"{seconds * 1e3:.3g}" if seconds >= 1e-4 else f"{seconds * 1e3:.2g}"


def floor_of(entry, copy_rate, product_rate):
    """What takes the least time that the row can take, and that time."""
    if "bare products" in entry["seconds"]:
        return "bare products", entry["seconds"]["bare products"]
    by_bytes, by_flops = entry["bytes"] / copy_rate, entry["flops"] / product_rate
    return ("operations", by_flops) if by_flops > by_bytes else ("bytes", by_bytes)


def line_of(entry, copy_rate, product_rate):
    seconds, failures = entry["seconds"], entry["failures"]
    ours = seconds.get("ours")

    def cell(name):
        if name in seconds:
            times = f" ({seconds[name] / ours:.2f}x)" if ours and name != "ours" else ""
            extra = entry["extraBytes"].get(name)
            memory = f", {extra / 2**20:.0f} MiB" if extra and extra >= 2**20 else ""
            return f"{milliseconds(seconds[name])}{times}{memory}"
        if name not in failures:
            return ""
        return failures[name].replace("|", "/") if failures[name].startswith("WRONG") else "does not run"

    others = [name for name in {**seconds, **failures} if name != "ours"]
    what, floor = floor_of(entry, copy_rate, product_rate)
    share = f"{floor / ours:.0%}" if ours else ""
    moved = f"{entry['bytes'] / ours / 1e9:.0f} GB/s" if ours and entry["bytes"] else ""
    done = f"{entry['flops'] / ours / 1e12:.0f} TFLOP/s" if ours and entry["flops"] else ""
    rates = ", ".join(text for text in (moved, done) if text)
    return (f"| {entry['task']} | {cell('ours')} | {'<br>'.join(f'{name}: {cell(name)}' for name in others)} | "
            f"{milliseconds(floor)} ({what}) | {share} | {rates} | {entry['rounds']} |")


def report(result):
    copy_rate, product_rate = result["copyBytesPerSecond"], result["productFlopsPerSecond"]
    lines = [line_of(entry, copy_rate, product_rate) for entry in result["rows"]]
    notes = [f"- {entry['task']}: {entry['note']}." for entry in result["rows"] if entry["note"]]
    notes += [f"- {entry['task']}: {name} does not run: {why}" for entry in result["rows"]
              for name, why in entry["failures"].items()]
    return "\n".join([
        f"# GRPO kernels on {result['gpu']}",
        "",
        f"- Date: {result['date']}",
        f"- Device: {result['gpu']}, driver {result['driver']}; {result['versions']}",
        f"- Command: `{result['command']}`",
        f"- Copy of 4 GiB: {copy_rate / 1e12:.2f} TB/s, bytes read and written. bf16 product of 8192 x 8192 x 8192: "
        f"{product_rate / 1e12:.0f} TFLOP/s. Both in this run.",
        "- Milliseconds, medians of rounds that take the sides in turn, by CUDA events, after three calls, with the L2 "
        "overwritten before each sample. In brackets the time over ours. MiB: what a call takes; PyTorch allocates its results "
        "in it.",
        "- Every peer gave our results first, within tolerances that reject ours on a slightly other problem (see the "
        "JSON file). Peers: PyTorch as written and compiled; Triton kernels of this repository.",
        "",
        "| task | ours | others | floor | floor / ours | ours moves and computes | rounds |",
        "|---|---|---|---|---|---|---|",
        *lines,
        "",
        *notes,
        "",
    ])


def versions():
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return (f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, Triton {triton_version}, "
            f"CUDA {torch.version.cuda}")


def driver_version():
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def describe(entry):
    """One line about a row, without times."""
    same = [f"{name} {max(found.values()):.0e}" for name, found in entry["differences"].items()]
    rejected = min(entry["rejected"].values(), default=float("nan"))
    failed = [f"{name}: {why}" for name, why in entry["failures"].items()]
    return "; ".join([f"{entry['task']}: equal to " + (", ".join(same) or "nobody"),
                      f"a wrong result is {rejected:.0e} apart", *failed])


torch.manual_seed(0)
start = time.monotonic()
device = Gpu() if on_gpu else StandIn()
copy_rate, product_rate = device.rates() if on_gpu else (None, None)
rows = Rows(device.kind, FULL if on_gpu else TINY)
makers = list(rows.all())
entries = []
for i, make in enumerate(makers):
    left = options.budget_seconds - (time.monotonic() - start)
    entry = row = rows.kernels = None
    try:
        # A context for each row: its scratch space then counts as extra memory of that row.
        rows.kernels = Kernels(library, torch.cuda.current_device() if on_gpu else 0)
        row = make()
        if options.only in row.task:
            entry = measure(row, device, options.rounds, max(left, 0) / (len(makers) - i))
    except (RuntimeError, MemoryError) as error:  # no memory for the row, or a device that an earlier one has lost
        entry = new_entry(f"row {i + 1}") | {"failures": {"ours": device.first_line(error)}}
    if entry:
        entries.append(entry)
        print(describe(entry), flush=True)
    if entry and on_gpu:  # kept in the log should the run be cut short
        print(line_of(entry, copy_rate, product_rate), flush=True)
    row = None
    gc.collect()
    if rows.kernels:
        rows.kernels.close()
    if on_gpu:
        torch.cuda.empty_cache()

if on_gpu:
    gpu = torch.cuda.get_device_name()
    result = {
        "what": "GRPO kernels on CUDA: median seconds, bytes that must be moved, extra memory",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python bench/cuda/measure_kernels.py", *re.sub(r"--(library|out)[= ]\S+", "",
                                                                    " ".join(sys.argv[1:])).split()]),
        "gpu": gpu,
        "driver": driver_version(),
        "versions": versions(),
        "copyBytesPerSecond": copy_rate,
        "productFlopsPerSecond": product_rate,
        "rows": entries,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower())
    out = Path(options.out or ROOT / f"bench/results/cuda-kernels-{slug}")
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(result, indent=2) + "\n")
    Path(f"{out}.md").write_text(report(result))
    print(report(result))
bad = [f"{name} of {entry['task']}: {why}" for entry in entries for name, why in entry["failures"].items()
       if name == "ours" or why.startswith("WRONG")]
if bad:
    sys.exit(f"bench:cuda: {'; '.join(bad)}")
