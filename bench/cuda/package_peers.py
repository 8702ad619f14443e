"""Peers from packages of others, which join where they are installed: quack-kernels, liger-kernel, cut-cross-entropy. None of
them gives entropies, so that what they compute is less than ours beside them."""

import importlib.util

import torch


def installed(**makers):
    """Those of the peers whose package can be imported; a peer is named by its package, `_` and what else is to be said."""
    return {name.replace("_", " "): make for name, make in makers.items()
            if importlib.util.find_spec(MODULES[name.split("_")[0]])}


MODULES = {"quack": "quack", "liger": "liger_kernel", "cce": "cut_cross_entropy"}


def quack_log_probs(logits, targets):
    """Of QuACK 0.6."""
    from quack.cross_entropy import cross_entropy

    return -cross_entropy(logits, targets, reduction="none")


def liger_policy_loss(logits, targets, old, advantages):
    """dapo without entropy bonus, of Liger 0.8, which takes logits [B, L + 1, V] and leaves out the last of each sequence."""
    from liger_kernel.transformers.grpo_loss import triton_grpo_loss

    loss, _ = triton_grpo_loss(logits, old, None, targets, advantages, temperature=1.0, beta=0.0, eps_low=0.2, eps_high=0.2,
                               inplace=False, loss_type="dapo", reduce=True)
    return loss


def with_one_more(logits, sequences):
    """Logits [N,V] of sequences of one length as [B, L + 1, V]."""
    logits = logits.view(sequences, -1, logits.shape[-1])
    return torch.cat((logits, torch.zeros_like(logits[:, :1])), 1)


def cce_log_probs(hidden, weight, targets):
    """Of Cut Cross-Entropy of June 2025, without leaving out small gradients: those of random logits are all small."""
    from cut_cross_entropy import linear_cross_entropy

    return -linear_cross_entropy(hidden, weight, targets, reduction="none", filter_eps=None)
