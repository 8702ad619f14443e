"""Log-probs and entropy in Triton, as the fused kernels of other projects work: the logits are read once in a forward
pass; with a backward pass whose coefficients are known they are read twice and their gradient is written once.

A program a row, with a running maximum and sums over blocks of columns.
"""

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 8192, 16


@triton.jit
def _statistics(row, columns, BLOCK: tl.constexpr):
    """The largest logit m, the sum of exp(z - m), and that of exp(z - m) * (z - m)."""
    lanes = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, columns, BLOCK):
        column = begin + lanes
        z = tl.load(row + column, mask=column < columns, other=-1e30).to(tl.float32)
        next_largest = tl.maximum(largest, z)
        shift = largest - next_largest
        scale = tl.exp(shift)
        weighted = scale * (weighted + total * shift)
        total = total * scale
        distance = z - next_largest
        p = tl.where(column < columns, tl.exp(distance), 0.0)
        total += p
        weighted += p * distance
        largest = next_largest
    m = tl.max(largest, 0)
    shift = largest - m
    scale = tl.exp(shift)
    return m, tl.sum(total * scale, 0), tl.sum(scale * (weighted + total * shift), 0)


@triton.jit
def _forward(logits, targets, log_probs, entropy, columns, stride, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    row = logits + n * stride
    m, total, weighted = _statistics(row, columns, BLOCK)
    log_total = tl.log(total)
    target = tl.load(row + tl.load(targets + n)).to(tl.float32)
    tl.store(log_probs + n, target - m - log_total)
    tl.store(entropy + n, log_total - weighted / total)


@triton.jit
def _forward_backward(logits, targets, grad_log_probs, grad_entropy, log_probs, entropy, grad_logits, columns, stride,
                      BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    row = logits + n * stride
    m, total, weighted = _statistics(row, columns, BLOCK)
    log_total = tl.log(total)
    target = tl.load(targets + n)
    h = log_total - weighted / total
    tl.store(log_probs + n, tl.load(row + target).to(tl.float32) - m - log_total)
    tl.store(entropy + n, h)
    g, e = tl.load(grad_log_probs + n), tl.load(grad_entropy + n)
    for begin in range(0, columns, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        z = tl.load(row + column, mask=column < columns, other=-1e30).to(tl.float32)
        log_p = z - m - log_total
        grad = tl.where(column == target, g, 0.0) - tl.exp(log_p) * (g + e * (log_p + h))
        tl.store(grad_logits + n * stride + column, grad.to(grad_logits.dtype.element_ty), mask=column < columns)


def _block(columns):
    return min(BLOCK, triton.next_power_of_2(columns))


def forward(logits, targets):
    log_probs, entropy = (torch.empty(len(targets), device=logits.device) for _ in range(2))
    _forward[(len(targets),)](logits, targets, log_probs, entropy, logits.shape[1], logits.stride(0),
                              BLOCK=_block(logits.shape[1]), num_warps=WARPS)
    return {"log_probs": log_probs, "entropy": entropy}


def forward_backward(logits, targets, grad_log_probs, grad_entropy, grad_logits):
    log_probs, entropy = (torch.empty(len(targets), device=logits.device) for _ in range(2))
    _forward_backward[(len(targets),)](logits, targets, grad_log_probs, grad_entropy, log_probs, entropy, grad_logits,
                                       logits.shape[1], logits.stride(0), BLOCK=_block(logits.shape[1]),
                                       num_warps=WARPS)
    return {"log_probs": log_probs, "entropy": entropy, "grad_logits": grad_logits}
