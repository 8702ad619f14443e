"""Compares the kernels with PyTorch's own operations, forward and backward: python check.py [library]

On a machine without a GPU, build-cuda-on-cpu/libgrpo_cuda.so computes on tensors of the CPU.
"""

import sys

import torch

from grpo_kernels import Kernels

library = sys.argv[1] if len(sys.argv) > 1 else "build-cuda/libgrpo_cuda.so"
device = "cuda" if torch.cuda.is_available() and "on-cpu" not in library else "cpu"
kernels = Kernels(library)
torch.manual_seed(0)
lengths = [7, 12, 5]
tokens, vocab = sum(lengths), 20_011
offsets = torch.tensor([0, 7, 19, 24], dtype=torch.int32, device=device)
advantages = torch.tensor([1.0, -0.5, 0.25], device=device)
targets = torch.randint(vocab, (tokens,), device=device)

for dtype, limit in [(torch.float32, 2e-6), (torch.bfloat16, 4e-3)]:
    logits = torch.randn(tokens, vocab, device=device).mul(3).to(dtype).requires_grad_()
    old = torch.log_softmax(logits.detach().float(), -1).gather(1, targets[:, None])[:, 0]
    old = old + 0.3 * torch.randn(tokens, device=device)

    log_probs, entropy = kernels.token_log_probs(logits, targets)
    loss = kernels.policy_loss(log_probs, advantages, offsets, old_log_probs=old)
    (loss - 0.01 * entropy.mean()).backward()

    truth = logits.detach().double().requires_grad_()
    all_log_probs = torch.log_softmax(truth, -1)
    true_log_probs = all_log_probs.gather(1, targets[:, None])[:, 0]
    true_entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
    ratio = (true_log_probs - old.double()).exp()
    each = advantages.double().repeat_interleave(torch.tensor(lengths, device=device))
    objective = torch.minimum(ratio * each, ratio.clamp(0.8, 1.2) * each)
    true_loss = -torch.stack([part.mean() for part in objective.split(lengths)]).mean()
    (true_loss - 0.01 * true_entropy.mean()).backward()

    def check(name, ours, expected, bound):
        error = ((ours.double() - expected).norm() / expected.norm()).item()
        print(f"{str(dtype):15} {name:10} relative error {error:.1e} (at most {bound:.0e})")
        if not error <= bound:
            sys.exit(f"{name}: the error is too large")

    check("log-probs", log_probs.detach(), true_log_probs.detach(), 2e-6)
    check("entropy", entropy.detach(), true_entropy.detach(), 2e-6)
    check("loss", loss.detach(), true_loss.detach(), 2e-6)
    check("gradient", logits.grad, truth.grad, limit)
kernels.close()
