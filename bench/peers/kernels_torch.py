"""The PyTorch and TRL side of bench/kernels.ts: a small server, driven line by line so that both sides alternate.

    pip install torch transformers trl

Reads one JSON object a line from stdin. {"prepare": task} makes the data of a task and runs it once; {"run": n} times it
n times; {"limit": bytes} times a parallel sum over as many bytes of float32. Answers one JSON object a line.
"""

import argparse
import json
import math
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()

import torch  # noqa: E402
import trl  # noqa: E402
from trl.trainer.utils import entropy_from_logits, selective_log_softmax  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def extra_memory(run):
    """Bytes of resident memory that a run takes beyond what there was."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    run()
    return max(status("VmHWM") - before, 0)


def eager_log_probs(logits, targets):
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def trl_log_probs(logits, targets):
    return selective_log_softmax(logits[None], targets[None])[0], entropy_from_logits(logits[None])[0]


def log_probs_task(task, compute):
    logits = torch.randn(task["rows"], task["vocab"]).to(DTYPES[task["dtype"]])
    targets = torch.randint(task["vocab"], (task["rows"],))
    g, h = torch.rand(task["rows"]), torch.rand(task["rows"]) * 0.01
    if not task["backward"]:

        def forward():
            with torch.no_grad():
                compute(logits, targets)

        return forward
    leaf = logits.requires_grad_()

    def both():
        leaf.grad = None
        log_probs, entropy = compute(leaf, targets)
        (log_probs * g + entropy * h).sum().backward()

    return both


def linear_task(task, compute):
    hidden = torch.randn(task["rows"], task["hidden"]).to(DTYPES[task["dtype"]]).requires_grad_()
    weight = (torch.randn(task["vocab"], task["hidden"]) * 0.05).to(DTYPES[task["dtype"]]).requires_grad_()
    targets = torch.randint(task["vocab"], (task["rows"],))
    g, h = torch.rand(task["rows"]), torch.rand(task["rows"]) * 0.01

    def run():
        hidden.grad = weight.grad = None
        with torch.set_grad_enabled(task["backward"]):
            log_probs, entropy = compute(hidden @ weight.T, targets)
            if task["backward"]:
                (log_probs * g + entropy * h).sum().backward()

    return run


def policy_loss_task(task):
    tokens, sequences = task["tokens"], task["sequences"]
    shape = (sequences, tokens // sequences)
    log_probs = (-torch.rand(shape)).requires_grad_()
    old, ref = log_probs.detach() + torch.randn(shape) * 0.1, log_probs.detach() + torch.randn(shape) * 0.1
    advantages, mask = torch.randn(sequences, 1), torch.ones(shape)

    def run():
        log_probs.grad = None
        ratio = torch.exp(log_probs - old)
        x = ref - log_probs
        kl = torch.exp(x) - x - 1
        loss = -torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages) + 0.04 * kl
        ((loss * mask).sum() / mask.sum()).backward()

    return run


def policy_loss_from_logits_task(task, compute):
    logits = torch.randn(task["rows"], task["vocab"]).to(DTYPES[task["dtype"]]).requires_grad_()
    targets = torch.randint(task["vocab"], (task["rows"],))
    advantages = torch.randn(task["rows"])
    old = torch.full((task["rows"],), -math.log(task["vocab"]))

    def run():
        logits.grad = None
        log_probs, entropy = compute(logits, targets)
        ratio = torch.exp(log_probs - old)
        loss = -torch.min(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
        (loss - 0.01 * entropy).mean().backward()

    return run


def advantages_task(task):
    rewards = torch.rand(task["groups"] * task["size"])

    def run():
        grouped = rewards.view(-1, task["size"])
        return (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)

    return run


def make(task):
    computes = {"eager": eager_log_probs, "trl": trl_log_probs}
    compute = computes.get(task["variant"])
    if task["variant"] == "compiled":
        torch._dynamo.reset()
        compute = torch.compile(eager_log_probs, dynamic=False)
    kinds = {
        "log-probs": lambda: log_probs_task(task, compute),
        "linear": lambda: linear_task(task, compute),
        "policy-loss": lambda: policy_loss_task(task),
        "policy-loss-from-logits": lambda: policy_loss_from_logits_task(task, compute),
        "advantages": lambda: advantages_task(task),
    }
    return kinds[task["kind"]]()


def answer(message):
    print(json.dumps(message), flush=True)


def timed(run, count):
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


current = None
answer({"versions": f"PyTorch {torch.__version__.split('+')[0]}, TRL {trl.__version__}"})
for line in sys.stdin:
    message = json.loads(line)
    if "prepare" in message:
        current = None
        try:
            current = make(message["prepare"])
            current()
            answer({"extraBytes": extra_memory(current)})
        except Exception as error:  # a variant that does not run here is reported, not hidden
            answer({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
    elif "limit" in message:
        memory = torch.ones(message["limit"] // 4)
        memory.sum()
        answer({"seconds": timed(memory.sum, 7)})
    else:
        answer({"seconds": timed(current, message["run"])})
