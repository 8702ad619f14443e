"""The CUDA kernels beside PyTorch (eager, compiled, SDPA), Triton and cuBLAS, on one GPU in one run that takes the
sides in turn. Every peer must give our results before it is timed. Needs torch, and Triton for some peers; no Node.

    npm run build:cuda
    python bench/cuda/measure_kernels.py [--budget-seconds 240] [--library build-cuda/libgrpo_cuda.so]

Writes bench/results/cuda-kernels-<gpu>.{json,md}, anew after each row. Rows run in a process of their own (run_rows.py): one
that ends it, loses the device or never ends is named, and the next begin in a new one. With --device cuda-on-cpu the
comparisons alone run, at small sizes, with the kernels that test/cuda-on-cpu builds for the processor; nothing is timed or
written.
"""

import argparse
import datetime
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120  # most until the device is open and its rates are known


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cuda-on-cpu"], default="cuda")
    parser.add_argument("--library", help="libgrpo_cuda.so; that of the device's build unless it is given")
    parser.add_argument("--budget-seconds", type=float, default=240, help="rounds are left out beyond it, rows are not")
    parser.add_argument("--row-seconds", type=float, default=120, help="a row that takes longer is given up")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--out", help="results go to <out>.json and <out>.md")
    options = parser.parse_args()
    if min(options.budget_seconds, options.row_seconds) <= 0 or options.rounds < 1:
        parser.error("--budget-seconds, --row-seconds and --rounds: expected numbers above 0")
    return options


options = arguments()
on_gpu = options.device == "cuda"
library = Path(options.library or ROOT / ("build-cuda" if on_gpu else "build-cuda-on-cpu") / "libgrpo_cuda.so")
if not library.exists():
    build = "npm run build:cuda" if on_gpu else "node scripts/build-cuda-on-cpu.mjs"
    sys.exit(f"bench:cuda: there is no {library.name} in {library.parent.name}/: {build}")


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


class Worker:
    """run_rows.py from a row on."""

    def __init__(self, first, seconds):
        self.answers, to = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("run_rows.py")), "--device", options.device, "--library",
             str(library), "--budget-seconds", str(max(seconds, 0)), "--rounds", str(options.rounds), "--only",
             options.only, "--first", str(first), "--to", str(to)], pass_fds=[to])
        os.close(to)
        self.unread = b""

    def next(self, seconds):
        """The next message; None when there will be none; TimeoutError."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0]:
                raise TimeoutError
            part = os.read(self.answers, 1 << 16)
            if not part:
                return None
            self.unread += part
        line, self.unread = self.unread.split(b"\n", 1)
        return json.loads(line)

    def end(self):
        """How it ended, in words."""
        os.close(self.answers)
        status = self.process.wait()
        return f"the process ended with {signal.Signals(-status).name if status < 0 else f'exit code {status}'}"


def run_rows():
    """Gives what is known after each row: about the device, and the rows so far."""
    start = time.monotonic()
    entries, about, first = [], None, 0
    while about is None or first < about["rows"]:
        worker = Worker(first, options.budget_seconds - (time.monotonic() - start))
        before, begun = first, None  # `begun`: what is known of a row that has not ended
        seconds = START_SECONDS
        try:
            while message := worker.next(seconds):
                if "unable" in message:
                    sys.exit(f"bench:cuda: {message['unable']}")
                if "rows" in message:
                    about = about or message
                    continue
                first, begun, seconds = message["row"] + 1, message.get("begun"), options.row_seconds
                if message.get("entry"):
                    entries.append(message["entry"])
                    yield about, entries
            why = worker.end()
        except TimeoutError:
            worker.process.kill()
            worker.end()
            why = f"it did not end within {seconds:g} s"
        if first == before:
            sys.exit(f"bench:cuda: the device could not be opened: {why}")
        if begun:
            entries.append(begun | {"failures": {"ours": why}})
            yield about, entries


def write(about, entries):
    copy_rate, product_rate = about["rates"]
    result = {
        "what": "GRPO kernels on CUDA: median seconds, bytes that must be moved, extra memory",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python bench/cuda/measure_kernels.py", *re.sub(r"--(library|out)[= ]\S+", "",
                                                                    " ".join(sys.argv[1:])).split()]),
        "gpu": about["gpu"],
        "driver": driver,
        "versions": about["versions"],
        "copyBytesPerSecond": copy_rate,
        "productFlopsPerSecond": product_rate,
        "rows": entries,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", about["gpu"].lower())
    out = Path(options.out or ROOT / f"bench/results/cuda-kernels-{slug}")
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(result, indent=2) + "\n")
    Path(f"{out}.md").write_text(report(result))
    return report(result)


driver = driver_version() if on_gpu else None
entries = []
for about, entries in run_rows():
    print(describe(entries[-1]), flush=True)
    if on_gpu:  # kept in the log should the run be cut short
        print(line_of(entries[-1], *about["rates"]), flush=True)
        write(about, entries)
if on_gpu and entries:
    print(write(about, entries))
bad = [f"{name} of {entry['task']}: {why}" for entry in entries for name, why in entry["failures"].items()
       if name == "ours" or why.startswith("WRONG")]
if bad:
    sys.exit(f"bench:cuda: {'; '.join(bad)}")
