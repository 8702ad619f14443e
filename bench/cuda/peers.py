"""What PyTorch does with the rows of the CUDA benchmark: eagerly, compiled, and in chunks of tokens."""

import torch


def log_probs(logits, targets):
    """Log-probs of the targets and entropies, from logits [N,V]."""
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def head_log_probs(hidden, weight, targets):
    return log_probs(hidden @ weight.T, targets)


class ChunkedHead(torch.autograd.Function):
    """The head over a few tokens at a time, recomputed in backward, as verl does."""

    @staticmethod
    def forward(context, hidden, weight, targets, chunk):
        parts = [log_probs(h @ weight.T, t) for h, t in zip(hidden.split(chunk), targets.split(chunk))]
        context.save_for_backward(hidden, weight, targets)
        context.chunk = chunk
        return tuple(torch.cat(part) for part in zip(*parts))

    @staticmethod
    def backward(context, grad_log_probs, grad_entropy):
        hidden, weight, targets = context.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for begin in range(0, len(targets), context.chunk):
            rows = slice(begin, begin + context.chunk)
            log_p = torch.log_softmax((hidden[rows] @ weight.T).float(), -1)
            p = log_p.exp()
            entropy = -(p * log_p).sum(-1, keepdim=True)
            grad = -p * (grad_log_probs[rows, None] + grad_entropy[rows, None] * (log_p + entropy))
            grad.scatter_add_(1, targets[rows, None], grad_log_probs[rows, None])
            grad = grad.to(hidden.dtype)
            torch.mm(grad, weight, out=grad_hidden[rows])
            grad_weight.addmm_(grad.T, hidden[rows])
        return grad_hidden, grad_weight, None, None


def policy_loss(log_probs, old, ref, advantages, tokens):
    """Clipped surrogate plus KL over `tokens`; advantages a token."""
    ratio = torch.exp(log_probs - old)
    x = ref - log_probs
    kl = torch.exp(x) - x - 1
    objective = torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
    return ((0.04 * kl) - objective).sum() / tokens


def policy_loss_from_logits(logits, targets, old, advantages):
    """Clipped surrogate less an entropy bonus, and what it was made from."""
    log_p, entropy = log_probs(logits, targets)
    ratio = torch.exp(log_p - old)
    objective = torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
    return (-objective - 0.01 * entropy).mean(), log_p.detach(), entropy.detach()


def advantages(rewards, size):
    grouped = rewards.view(-1, size)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).view(-1)
