"""How the CUDA benchmark runs, compares and times: on a GPU, or without times on tensors of the CPU."""

import ctypes
import statistics
import time
from dataclasses import dataclass, field
from typing import Callable, Optional

import torch

SAMPLE_SECONDS = 0.1  # that a sample takes about, in as many calls as that needs
MOST_CALLS = 50
FLUSHED_BYTES = 512 << 20  # written before a sample: several times the L2 of any device
GRAPH_CALLS = 20


@dataclass
class Variant:
    """One way to compute a row. `results` runs once and gives tensors by name; `run` is what is timed.

    `expected`: what ours gives on the problem of a peer that computes less.
    """

    run: Callable
    results: Optional[Callable] = None
    expected: Optional[Callable] = None

    def check(self):
        return (self.results or self.run)()


@dataclass
class Row:
    """A row of the table. Makers are called when their turn comes, and what they made is freed after the row.

    `wrong` is ours on a slightly other problem: every tolerance must reject it. `beside` is timed, not compared.
    """

    task: str
    ours: Callable[[], Variant]
    wrong: Callable[[], dict]
    peers: dict
    tolerances: dict
    bytes: int = 0
    flops: int = 0
    beside: dict = field(default_factory=dict)
    graph: bool = False  # shorter than its launch from Python: calls are recorded into a graph, and that is timed
    note: str = ""


class WrongResult(Exception):
    pass


def difference(ours, other):
    """Norm of the difference over the norm of `ours`, in float64; NaN when either has one."""
    if ours.shape != other.shape:
        raise WrongResult(f"shape {tuple(other.shape)} instead of {tuple(ours.shape)}")
    apart = norm = 0.0
    for a, b in zip(ours.reshape(-1).split(1 << 26), other.reshape(-1).split(1 << 26)):
        a = a.double()
        apart += (a - b.double()).square().sum().item()
        norm += a.square().sum().item()
    return (apart / norm) ** 0.5 if norm > 0 else float(apart > 0)


def compare(row, ours, other, who):
    """The differences by result, each within its tolerance."""
    found = {name: difference(ours[name], other[name]) for name in row.tolerances if name in ours}
    for name, value in found.items():
        if not value <= row.tolerances[name]:
            limit = row.tolerances[name]
            raise WrongResult(f"{name} of {who} is apart from ours by {value:.1e}, more than {limit:.0e}")
    return found


def must_reject(row, ours, wrong):
    """How far the wrong results are from ours: beyond every tolerance."""
    found = {name: difference(ours[name], wrong[name]) for name in row.tolerances}
    for name, value in found.items():
        if not value > row.tolerances[name]:
            raise WrongResult(f"the tolerance of {name} would accept a wrong result: {value:.1e} apart")
    return found


def checked_results(variant):
    """The results, with memory poisoned before they are computed, so that what nobody wrote is seen."""
    if variant.results is None:
        for tensor in variant.run().values():
            tensor.detach().fill_(float("nan"))
    return clones(variant.check())


def clones(results):
    return {name: tensor.detach().clone() for name, tensor in results.items()}


class StandIn:
    """Tensors of the CPU: results are compared, nothing is timed."""

    kind = "cpu"
    times = False
    memory = None

    def synchronize(self):
        pass

    def first_line(self, error):
        return (str(error) or type(error).__name__).splitlines()[0][:200]


class Gpu(StandIn):
    """The current CUDA device, with a stream on which everything runs, ours and the peers."""

    kind = "cuda"
    times = True

    def __init__(self):
        # A graph can only be captured on a stream that is not the default one.
        self.stream = torch.cuda.Stream()
        torch.cuda.set_stream(self.stream)
        self.flushed = torch.empty(FLUSHED_BYTES // 4, dtype=torch.float32, device="cuda")
        try:
            self.memory = PoolMemory()
        except (OSError, RuntimeError) as error:
            print(f"extra memory is not measured: {self.first_line(error)}")

    def synchronize(self):
        torch.cuda.synchronize()

    def elapsed(self, run, calls):
        """Seconds a call, of `calls` calls one after another."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flushed.fill_(1.0)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def sampler(self, run, graph):
        """A function that gives seconds a call; it has warmed up, and knows how many calls a sample takes."""
        for _ in range(3):
            run()
        torch.cuda.synchronize()
        if graph:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded, stream=self.stream):
                for _ in range(GRAPH_CALLS):
                    run()
            recorded.replay()
            torch.cuda.synchronize()
            return lambda: self.elapsed(recorded.replay, 5) / GRAPH_CALLS
        calls = max(1, min(MOST_CALLS, int(SAMPLE_SECONDS / max(self.elapsed(run, 1), 1e-7))))
        return lambda: self.elapsed(run, calls)

    def rates(self):
        """Bytes a second of a copy, read and written ones counted both; operations a second of a bf16 product."""
        source = torch.rand(1 << 30, device="cuda")
        target = torch.empty_like(source)
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        product = torch.empty_like(a)
        copy = self.sampler(lambda: target.copy_(source), False)
        multiply = self.sampler(lambda: torch.mm(a, b, out=product), False)
        seconds = [statistics.median(sample() for _ in range(5)) for sample in (copy, multiply)]
        return 2 * source.nbytes / seconds[0], 2 * 8192**3 / seconds[1]


class PoolMemory:
    """What the library takes from the device's memory pool: PyTorch does not see that, the driver does."""

    USED_CURRENT, USED_HIGH = 7, 8  # CUmemPool_attribute

    def __init__(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.pool = ctypes.c_void_p()
        self._require(self.driver.cuDeviceGetDefaultMemPool(ctypes.byref(self.pool), torch.cuda.current_device()))

    def _require(self, status):
        if status:
            raise RuntimeError(f"the memory pool cannot be asked: CUDA driver error {status}")

    def _get(self, attribute):
        value = ctypes.c_uint64()
        self._require(self.driver.cuMemPoolGetAttribute(self.pool, attribute, ctypes.byref(value)))
        return value.value

    def extra(self, run):
        """Bytes that a run takes beyond what there was, in PyTorch's allocator and in the pool."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._require(self.driver.cuMemPoolSetAttribute(self.pool, self.USED_HIGH, ctypes.byref(ctypes.c_uint64(0))))
        before = torch.cuda.memory_allocated(), self._get(self.USED_CURRENT)
        run()
        torch.cuda.synchronize()
        after = torch.cuda.max_memory_allocated(), max(self._get(self.USED_HIGH), before[1])
        return after[0] - before[0] + after[1] - before[1]


def new_entry(task):
    """What is known of a row before anything of it has run."""
    return {"task": task, "bytes": 0, "flops": 0, "note": "", "tolerances": {}, "differences": {}, "rejected": {},
            "extraBytes": {}, "seconds": {}, "failures": {}, "rounds": 0}


def measure(row, device, rounds, seconds):
    """Compares and times a row. Rounds beyond the first end when `seconds` have passed; the row itself never fails."""
    entry = new_entry(row.task)
    entry |= {"bytes": row.bytes, "flops": row.flops, "note": row.note, "tolerances": row.tolerances}
    deadline = time.monotonic() + seconds
    samplers = {}

    def attempt(name, prepare):
        try:
            variant = prepare()
            take_memory(name, variant)
            if device.times:
                samplers[name] = device.sampler(variant.run, row.graph)
        except WrongResult:
            raise
        except Exception as error:  # what does not run here is reported, and the others go on
            entry["failures"][name] = device.first_line(error)

    def take_memory(name, variant):
        if device.memory and name not in entry["extraBytes"]:
            entry["extraBytes"][name] = device.memory.extra(variant.run)

    def prepare_peer(name, make):
        variant = make()
        ours = clones(variant.expected()) if variant.expected else expected
        entry["differences"][name] = compare(row, ours, checked_results(variant), name)
        return variant

    try:
        # The first call takes the scratch space that later ones use. What is checked starts anew: it may change as it
        # runs.
        take_memory("ours", row.ours())
        expected = checked_results(row.ours())
        entry["rejected"] = must_reject(row, expected, row.wrong())
        for name, make in row.peers.items():
            try:
                attempt(name, lambda: prepare_peer(name, make))
            except WrongResult as error:
                entry["failures"][name] = f"WRONG: {error}"
        del expected
        attempt("ours", row.ours)
        for name, make in row.beside.items():
            attempt(name, make)
    except Exception as error:
        entry["failures"]["ours"] = ("WRONG: " if isinstance(error, WrongResult) else "") + device.first_line(error)
        return entry
    times = {name: [] for name in samplers}
    while samplers and entry["rounds"] < rounds and (entry["rounds"] == 0 or time.monotonic() < deadline):
        for name, sample in samplers.items():
            times[name].append(sample())
        entry["rounds"] += 1
    entry["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    return entry
