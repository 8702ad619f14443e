"""The PyTorch side of bench/cuda.ts: GRPO updates and sampling of a model from transformers, driven line by line so that
both sides take turns. Attention is SDPA's, the loss is compiled on a GPU, weights are bf16 beside float32 masters.

    python bench/peers/training_torch.py --device cuda

Reads one JSON object a line from stdin and answers one a line: {"create": shape, "dtype", "folder"} makes a model of random
weights and writes it as a folder; {"logProbs": ids, "prompt": n} gives those of the completions; {"update": ids,
"prompt": n, "advantages", "microBatch"} makes an update and times it; {"generate": ids, "tokens": n} samples; {"rates"}
measures the device.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
arguments = parser.parse_args()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))

import torch  # noqa: E402
import transformers  # noqa: E402
from measure import Gpu  # noqa: E402

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
on_gpu = arguments.device == "cuda"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LEARNING_RATE = 1e-6


def synchronize():
    if on_gpu:
        torch.cuda.synchronize()


def log_probs(logits, targets):
    """Log-probs of the targets, and entropies, which are a metric and have no gradient."""
    log_p = torch.log_softmax(logits.float(), -1)
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(-1)
    return log_p.gather(-1, targets[..., None])[..., 0], entropy


def token_loss(logits, targets, advantages, tokens):
    current, entropy = log_probs(logits, targets)
    ratio = torch.exp(current - current.detach())
    objective = torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
    return -objective.sum() / tokens, entropy.sum()


loss_of = torch.compile(token_loss, dynamic=False) if on_gpu else token_loss


class Side:
    """The model of one shape, with its optimiser."""

    def __init__(self, shape, dtype, folder):
        config = transformers.Qwen2Config(**shape, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
                                          pad_token_id=None)
        with torch.device(arguments.device):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        model.save_pretrained(folder)
        self.model = model.eval()  # no dropout in either mode
        self.parameters = list(model.parameters())
        self.masters = [parameter.detach().float().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def logits(self, ids, prompt):
        """Those that predict the completion."""
        return self.model(ids, use_cache=False, logits_to_keep=ids.shape[1] - prompt + 1).logits[:, :-1]

    @torch.no_grad()
    def log_probs(self, ids, prompt):
        return log_probs(self.logits(ids, prompt), ids[:, prompt:])[0].flatten().tolist()

    def update(self, ids, prompt, advantages, micro_batch):
        tokens = ids.shape[0] * (ids.shape[1] - prompt)
        total = torch.zeros((), device=ids.device)
        for rows, each in zip(ids.split(micro_batch), advantages.split(micro_batch)):
            loss, _ = loss_of(self.logits(rows, prompt), rows[:, prompt:], each[:, None], tokens)
            loss.backward()
            total += loss.detach()
        for master, parameter in zip(self.masters, self.parameters):
            master.grad, parameter.grad = parameter.grad.float(), None
        norm = torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.parameters):
                parameter.copy_(master)
        return total.item(), norm.item()

    @torch.no_grad()
    def generate(self, ids, tokens):
        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                                  do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)
        return out.shape[1] - ids.shape[1]


def timed(run):
    synchronize()
    start = time.perf_counter()
    result = run()
    synchronize()
    return time.perf_counter() - start, result


def answer_to(message):
    global side
    tensor = lambda key: torch.tensor(message[key], device=arguments.device)  # noqa: E731
    if "create" in message:
        side = None
        if on_gpu:
            torch.cuda.empty_cache()
        side = Side(message["create"], DTYPES[message["dtype"]], message["folder"])
        return {"weights": sum(parameter.numel() for parameter in side.parameters)}
    if "logProbs" in message:
        return {"logProbs": side.log_probs(tensor("logProbs"), message["prompt"])}
    if "update" in message:
        ids, advantages = tensor("update"), tensor("advantages")
        seconds, (loss, norm) = timed(lambda: side.update(ids, message["prompt"], advantages, message["microBatch"]))
        return {"seconds": seconds, "loss": loss, "gradNorm": norm}
    if "generate" in message:
        ids = tensor("generate")
        seconds, tokens = timed(lambda: side.generate(ids, message["tokens"]))
        return {"seconds": seconds, "tokens": tokens}
    copy, product = Gpu().rates()
    return {"copyBytesPerSecond": copy, "productFlopsPerSecond": product}


side = None
device = torch.cuda.get_device_name() if on_gpu else "the processor"
print(json.dumps({"device": device, "versions": f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}, "
                  f"transformers {transformers.__version__}, CUDA {torch.version.cuda}"}), flush=True)
for line in sys.stdin:
    try:
        answer = answer_to(json.loads(line))
    except Exception as error:  # what does not run here is reported, not hidden
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    print(json.dumps(answer), flush=True)
