"""The rows of the CUDA benchmark: ours through the library's C API, and the peers on the same tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import package_peers
import peers
from measure import Row, Variant

INFINITY = float("inf")


@dataclass
class Sizes:
    tokens: int
    vocab: int
    widths: list
    chunk: int  # tokens of a chunk of the head, for the peer
    workspace: int
    loss_tokens: int
    sequences: int
    groups: int
    parameters: int
    attention: tuple  # sequences, tokens of each, query heads, key heads, elements of a head
    decoding: tuple  # prompts, rows of each, tokens of a prompt, own tokens of a row, then as above


FULL = Sizes(tokens=8192, vocab=151_936, widths=[1536, 3584], chunk=1024, workspace=256 << 20, loss_tokens=65_536,
             sequences=64, groups=4096, parameters=494_032_768, attention=(8, 1024, 14, 2, 64),
             decoding=(8, 8, 512, 512, 32, 8, 128))
# Few enough for kernels that run thread by thread on the processor; lengths that no vector divides.
TINY = Sizes(tokens=12, vocab=1003, widths=[40], chunk=5, workspace=16 << 10, loss_tokens=96, sequences=4, groups=8,
             parameters=5003, attention=(2, 24, 4, 2, 64), decoding=(2, 2, 200, 100, 4, 2, 64))


class Rows:
    """Makes the rows for tensors of `device` ("cuda" or "cpu"), with ours from `kernels` (grpo_kernels.Kernels)."""

    def __init__(self, device, sizes):
        self.kernels, self.device, self.sizes = None, device, sizes

    def all(self):
        """In an order in which the largest come when nothing else is held. A row is made when it is asked for."""
        yield lambda: self.log_probs(backward=False)
        yield lambda: self.log_probs(backward=True)
        yield self.policy_loss_from_logits
        for width in self.sizes.widths:
            yield lambda width=width: self.head(width)
        yield self.policy_loss
        yield self.advantages
        yield self.adamw
        yield lambda: self.attention(backward=False)
        yield lambda: self.attention(backward=True)
        yield self.decoding

    # ---- helpers ----

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, device=self.device) * scale).to(dtype)

    def empty(self, *shape, dtype=torch.float32):
        return torch.empty(*shape, device=self.device, dtype=dtype)

    def compiled(self, function):
        # Without a GPU only what is captured is of interest, not the code that comes of it.
        return torch.compile(function, dynamic=False, backend="inductor" if self.device == "cuda" else "eager")

    @staticmethod
    def differentiated(function, inputs, names, gradients):
        """A run of function(*inputs) and the gradients of its differentiable inputs, named by `names`."""
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]

        def run():
            outputs = function(*leaves)
            return outputs, dict(zip(names, torch.autograd.grad(outputs, leaves, gradients)))

        return run

    def without_entropy(self, log_probs, inputs, names, gradients, ours):
        """A peer that gives log-probs alone, and the gradients `names` of its inputs; `ours()` computes the same."""
        both = self.differentiated(log_probs, inputs, names, gradients)

        def run():
            values, found = both()
            return {"log_probs": values, **found}

        def expected():
            result = ours()
            return {name: result[name] for name in ("log_probs", *names)}

        return Variant(run, expected=expected)

    # ---- log-probs ----

    def log_probs(self, backward):
        n, vocab = self.sizes.tokens, self.sizes.vocab
        logits = self.normal(n, vocab, dtype=torch.bfloat16, scale=2.0)
        targets = torch.randint(vocab, (n,), device=self.device)
        ids = targets.int()
        g, h = self.normal(n), self.normal(n, scale=0.01)
        grad_logits = torch.empty_like(logits) if backward else None
        out = {name: self.empty(n) for name in ("log_probs", "entropy", "log_sum_exp")}

        def run(temperature=1.0, grad_entropy=h):
            self.kernels.run("token_log_probs", logits=logits, targets=ids, temperature=temperature, **out)
            result = {"log_probs": out["log_probs"], "entropy": out["entropy"]}
            if backward:
                self.kernels.run("token_log_probs_backward", logits=logits, targets=ids, grad_log_probs=g,
                                 grad_entropy=grad_entropy, grad_logits=grad_logits, log_sum_exp=out["log_sum_exp"],
                                 entropy=out["entropy"], temperature=temperature)
                result["grad_logits"] = grad_logits
            return result

        def quack():
            if not backward:
                return Variant(lambda: {"log_probs": package_peers.quack_log_probs(logits, targets)},
                               expected=lambda: {"log_probs": run()["log_probs"]})
            return self.without_entropy(lambda z: package_peers.quack_log_probs(z, targets), [logits], ["grad_logits"],
                                        g, lambda: run(grad_entropy=None))

        def torch_peer(function):
            if not backward:

                def forward():
                    with torch.no_grad():
                        return dict(zip(("log_probs", "entropy"), function(logits, targets)))

                return Variant(forward)
            both = self.differentiated(lambda z: function(z, targets), [logits], ["grad_logits"], (g, h))

            def forward_backward():
                (log_probs, entropy), gradients = both()
                return {"log_probs": log_probs, "entropy": entropy, **gradients}

            return Variant(forward_backward)

        def triton_peer():
            import triton_peers

            if backward:
                other = torch.empty_like(logits)
                return Variant(lambda: triton_peers.forward_backward(logits, targets, g, h, other))
            return Variant(lambda: triton_peers.forward(logits, targets))

        tolerances = {"log_probs": 1e-5, "entropy": 1e-5}
        if backward:
            tolerances["grad_logits"] = 8e-3
        return Row(
            task=f"log-prob + entropy, forward{' + backward' if backward else ''}, N {n}, V {vocab}, bf16",
            ours=lambda: Variant(run),
            wrong=lambda: run(temperature=1.02),
            peers={"eager": lambda: torch_peer(peers.log_probs),
                   "compiled": lambda: torch_peer(self.compiled(peers.log_probs)),
                   "triton": triton_peer,
                   **package_peers.installed(quack_without_entropy=quack)},
            tolerances=tolerances,
            bytes=logits.nbytes * (2 if backward else 1),
            note="triton: two reads and one write in one kernel; floor: one read and one write" if backward
            else "triton: one read",
        )

    def policy_loss_from_logits(self):
        n, vocab, sequences = self.sizes.tokens, self.sizes.vocab, self.sizes.sequences
        logits = self.normal(n, vocab, dtype=torch.bfloat16, scale=2.0)
        targets = torch.randint(vocab, (n,), device=self.device)
        ids = targets.int()
        old = peers.log_probs(logits, targets)[0] + self.normal(n, scale=0.1)
        advantages = self.normal(sequences)
        each = advantages.repeat_interleave(n // sequences)
        offsets = self.kernels.integers(range(0, n + 1, n // sequences))
        grad_logits = torch.empty_like(logits)
        rows = {name: self.empty(n)
                for name in ("log_probs", "entropy", "log_sum_exp", "grad_log_probs", "grad_entropy")}
        out = {"loss": self.empty(1), "statistics": self.empty(21)}
        loss = {"old_log_probs": old, "advantages": advantages, "sequence_offsets": offsets, "loss_type": 2,
                "epsilon": 0.2, "epsilon_high": 0.2, "delta": INFINITY, "entropy_coefficient": 0.01,
                "rollout_cap": INFINITY, "off_policy_mask_threshold": INFINITY, "token_denominator": n, **out}

        def run(temperature=1.0, entropy_coefficient=0.01):
            self.kernels.run("policy_loss_from_logits", logits=logits, targets=ids, temperature=temperature,
                             grad_logits=grad_logits, **rows,
                             **{**loss, "entropy_coefficient": entropy_coefficient})
            return {"loss": out["loss"], "log_probs": rows["log_probs"], "entropy": rows["entropy"],
                    "grad_logits": grad_logits}

        def three_calls():
            forward = {name: rows[name] for name in ("log_probs", "entropy", "log_sum_exp")}
            gradients = {name: rows[name] for name in ("grad_log_probs", "grad_entropy")}
            self.kernels.run("token_log_probs", logits=logits, targets=ids, temperature=1.0, **forward)
            self.kernels.run("policy_loss", log_probs=rows["log_probs"], entropy=rows["entropy"], **gradients, **loss)
            self.kernels.run("token_log_probs_backward", logits=logits, targets=ids, temperature=1.0,
                             grad_logits=grad_logits, log_sum_exp=rows["log_sum_exp"], entropy=rows["entropy"],
                             **gradients)
            return {"loss": out["loss"], "log_probs": rows["log_probs"], "entropy": rows["entropy"],
                    "grad_logits": grad_logits}

        def torch_peer(function):
            leaf = logits.detach().requires_grad_()

            def forward_backward():
                loss, log_probs, entropy = function(leaf, targets, old, each)
                (gradient,) = torch.autograd.grad(loss, leaf)
                return {"loss": loss.detach()[None], "log_probs": log_probs, "entropy": entropy,
                        "grad_logits": gradient}

            return Variant(forward_backward)

        def liger():
            # A token whose ratio is at the edge of the clip may fall on either side of it: rare, and within tolerance.
            longer = package_peers.with_one_more(logits, sequences).requires_grad_()
            of_sequence = lambda tensor: tensor.view(sequences, -1).contiguous()  # noqa: E731

            def forward_backward():
                value = package_peers.liger_policy_loss(longer, of_sequence(targets), of_sequence(old), advantages)
                (gradient,) = torch.autograd.grad(value, longer)
                return {"loss": value.detach().reshape(1), "grad_logits": gradient}

            def results():
                found = forward_backward()
                return {"loss": found["loss"], "grad_logits": found["grad_logits"][:, :-1].reshape(n, vocab)}

            def expected():
                result = run(entropy_coefficient=0.0)
                return {name: result[name] for name in ("loss", "grad_logits")}

            return Variant(forward_backward, results, expected)

        return Row(
            task=f"policy loss from logits to their gradient (dapo, entropy bonus), N {n}, V {vocab}, bf16",
            ours=lambda: Variant(run),
            wrong=lambda: run(temperature=1.02),
            peers={"eager": lambda: torch_peer(peers.policy_loss_from_logits),
                   "compiled": lambda: torch_peer(self.compiled(peers.policy_loss_from_logits)),
                   "three calls": lambda: Variant(three_calls),
                   **package_peers.installed(liger_without_entropy=liger)},
            tolerances={"loss": 1e-4, "log_probs": 1e-5, "entropy": 1e-5, "grad_logits": 8e-3},
            bytes=logits.nbytes * 2,
            note="three calls: our operations one after another, two or three reads and one write; floor: one read and "
            "one write",
        )

    # ---- the fused head ----

    def head(self, width):
        n, vocab, chunk = self.sizes.tokens, self.sizes.vocab, self.sizes.chunk
        hidden = self.normal(n, width, dtype=torch.bfloat16)
        weight = self.normal(vocab, width, dtype=torch.bfloat16, scale=2 * width**-0.5)
        targets = torch.randint(vocab, (n,), device=self.device)
        ids = targets.int()
        g, h = self.normal(n), self.normal(n, scale=0.01)
        out = {name: self.empty(n) for name in ("log_probs", "entropy", "log_sum_exp")}
        grad_hidden, grad_weight = torch.empty_like(hidden), self.empty(vocab, width)
        inputs = {"hidden": hidden, "weight": weight, "targets": ids, "workspace_bytes": self.sizes.workspace}

        def run(temperature=1.0, grad_entropy=h):
            self.kernels.run("linear_token_log_probs", temperature=temperature, **inputs, **out)
            grad_weight.zero_()
            self.kernels.run("linear_token_log_probs_backward", temperature=temperature, **inputs, grad_log_probs=g,
                             grad_entropy=grad_entropy, grad_hidden=grad_hidden, grad_weight=grad_weight,
                             log_sum_exp=out["log_sum_exp"], entropy=out["entropy"])
            return {"log_probs": out["log_probs"], "entropy": out["entropy"], "grad_hidden": grad_hidden,
                    "grad_weight": grad_weight}

        def torch_peer(function):
            both = self.differentiated(lambda x, w: function(x, w, targets), [hidden, weight],
                                       ["grad_hidden", "grad_weight"], (g, h))

            def forward_backward():
                (log_probs, entropy), gradients = both()
                return {"log_probs": log_probs, "entropy": entropy, **gradients}

            return Variant(forward_backward)

        def cce():
            return self.without_entropy(lambda x, w: package_peers.cce_log_probs(x, w, targets), [hidden, weight],
                                        ["grad_hidden", "grad_weight"], g, lambda: run(grad_entropy=None))

        def bare_products():
            logits = self.empty(n, vocab, dtype=torch.bfloat16)
            gradient = self.normal(n, vocab, dtype=torch.bfloat16, scale=0.01)
            to_hidden, to_weight = torch.empty_like(hidden), torch.empty_like(weight)

            def products():
                for _ in range(2):  # forward, and again in backward
                    torch.mm(hidden, weight.T, out=logits)
                torch.mm(gradient, weight, out=to_hidden)
                torch.mm(gradient.T, hidden, out=to_weight)

            return Variant(products)

        return Row(
            task=f"fused head, forward + backward with recompute, N {n}, V {vocab}, H {width}, bf16",
            ours=lambda: Variant(run),
            wrong=lambda: run(temperature=1.1),
            peers={"eager": lambda: torch_peer(peers.head_log_probs),
                   "compiled": lambda: torch_peer(self.compiled(peers.head_log_probs)),
                   "chunks": lambda: torch_peer(lambda x, w, t: peers.ChunkedHead.apply(x, w, t, chunk)),
                   **package_peers.installed(cce_without_entropy=cce)},
            # The peers round logits to bf16, and the last of them sums the weight's gradient in bf16.
            tolerances={"log_probs": 3e-3, "entropy": 3e-3, "grad_hidden": 3e-2, "grad_weight": 3e-2},
            flops=4 * 2 * n * vocab * width,
            beside={"bare products": bare_products},
            note=f"ours: {self.sizes.workspace >> 20} MiB of workspace; chunks: {chunk} tokens; floor: the bare "
            "products, in bf16",
        )

    # ---- the losses of a batch ----

    def policy_loss(self):
        tokens, sequences = self.sizes.loss_tokens, self.sizes.sequences
        length = tokens // sequences
        log_probs = -torch.rand(tokens, device=self.device)
        old, ref = (log_probs + self.normal(tokens, scale=0.2) for _ in range(2))
        advantages = self.normal(sequences)
        each = advantages.repeat_interleave(length)
        offsets = self.kernels.integers(range(0, tokens + 1, length))
        out = {"loss": self.empty(1), "grad_log_probs": self.empty(tokens), "statistics": self.empty(21)}

        def run(beta=0.04):
            self.kernels.run("policy_loss", log_probs=log_probs, old_log_probs=old, ref_log_probs=ref,
                             advantages=advantages, sequence_offsets=offsets, loss_type=2, epsilon=0.2,
                             epsilon_high=0.2, delta=INFINITY, beta=beta, kl_estimator=2, rollout_cap=INFINITY,
                             off_policy_mask_threshold=INFINITY, token_denominator=tokens, **out)
            return {"loss": out["loss"], "grad_log_probs": out["grad_log_probs"]}

        def torch_peer(function):
            both = self.differentiated(lambda x: function(x, old, ref, each, tokens), [log_probs], ["grad_log_probs"],
                                       None)

            def forward_backward():
                loss, gradients = both()
                return {"loss": loss[None], **gradients}

            return Variant(forward_backward)

        return Row(
            task=f"policy loss (dapo with KL), loss and gradient, {tokens} tokens",
            ours=lambda: Variant(run),
            wrong=lambda: run(beta=0.05),
            peers={"eager": lambda: torch_peer(peers.policy_loss),
                   "compiled": lambda: torch_peer(self.compiled(peers.policy_loss))},
            tolerances={"loss": 1e-4, "grad_log_probs": 1e-4},
            bytes=4 * 4 * tokens,
            beside={"empty kernel": lambda: Variant(lambda: torch.cuda._sleep(0))} if self.device == "cuda" else {},
            graph=True,
            note="calls recorded into a CUDA graph; memory stays in the L2",
        )

    def advantages(self):
        groups, size = self.sizes.groups, 8
        rewards = torch.rand(groups * size, device=self.device)
        offsets = self.kernels.integers(range(0, groups * size + 1, size))
        out = self.empty(groups * size)

        def run(epsilon=1e-4):
            self.kernels.run("group_advantages", rewards=rewards, group_offsets=offsets, advantages=out,
                             epsilon=epsilon)
            return {"advantages": out}

        def torch_peer(function):
            return Variant(lambda: {"advantages": function(rewards, size)})

        return Row(
            task=f"group advantages, {groups} groups of {size}",
            ours=lambda: Variant(run),
            wrong=lambda: run(epsilon=1e-2),
            peers={"eager": lambda: torch_peer(peers.advantages),
                   "compiled": lambda: torch_peer(self.compiled(peers.advantages))},
            tolerances={"advantages": 1e-5},
            bytes=2 * rewards.nbytes,
            note="calls from Python, which take longer than the kernels; ours reads the rewards back to check them",
        )

    # ---- the optimiser ----

    def adamw(self):
        count = self.sizes.parameters
        start, gradients = self.normal(count, scale=0.02), self.normal(count)
        settings = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01}

        def ours(rate=settings["learning_rate"]):
            parameters, norm, weights = start.clone(), self.empty(1), self.empty(count, dtype=torch.bfloat16)
            first, second = (torch.zeros_like(start) for _ in range(2))

            def run():
                self.kernels.run("global_norm", **{"in": gradients}, norm=norm)
                self.kernels.run("adamw", parameters=parameters, gradients=gradients, first_moment=first,
                                 second_moment=second, model_weights=weights, norm=norm, step=1, max_norm=1.0,
                                 **{**settings, "learning_rate": rate})

            def results():
                run()
                return {"norm": norm, "update": parameters - start, "weights": weights}

            return Variant(run, results)

        def torch_peer(**how):
            parameters, weights = torch.nn.Parameter(start.clone()), self.empty(count, dtype=torch.bfloat16)
            optimizer = torch.optim.AdamW([parameters], lr=settings["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                          weight_decay=settings["weight_decay"], **how)
            parameters.grad = gradients.clone()

            def run():
                norm = torch.nn.utils.clip_grad_norm_([parameters], 1.0)
                optimizer.step()
                weights.copy_(parameters.detach())
                return norm

            def results():
                norm = run()
                return {"norm": norm[None], "update": parameters.detach() - start, "weights": weights}

            return Variant(run, results)

        def copied():
            memory = torch.empty_like(start)
            return Variant(lambda: memory.copy_(start))

        return Row(
            task=f"AdamW + global norm, {count} parameters",
            ours=ours,
            wrong=lambda: {name: 2 * value if name == "norm" else value
                           for name, value in ours(1.1 * settings["learning_rate"]).results().items()},
            peers={"eager": lambda: torch_peer(foreach=True), "fused": lambda: torch_peer(fused=True)},
            tolerances={"norm": 1e-4, "update": 1e-3, "weights": 1e-3},
            # The norm reads the gradients; the update reads four numbers and writes three, and a bf16 weight.
            bytes=count * (4 + 4 * 4 + 3 * 4 + 2),
            beside={"copy of the parameters": copied},
            note="float32 master weights, bf16 weights written beside them",
        )

    # ---- attention ----

    def attention(self, backward):
        sequences, length, heads, key_heads, head_dim = self.sizes.attention
        n = sequences * length
        queries, grad_out = (self.normal(n, heads * head_dim, dtype=torch.bfloat16) for _ in range(2))
        keys, values = (self.normal(n, key_heads * head_dim, dtype=torch.bfloat16) for _ in range(2))
        offsets = self.kernels.integers(range(0, n + 1, length))
        out, log_sum_exp = torch.empty_like(queries), self.empty(n, heads)
        gradients = {f"grad_{name}": torch.empty_like(t)
                     for name, t in (("queries", queries), ("keys", keys), ("values", values))}
        inputs = {"queries": queries, "keys": keys, "values": values, "sequence_offsets": offsets,
                  "head_dim": head_dim, "max_length": length}

        def run(scale=head_dim**-0.5):
            self.kernels.run("attention", **inputs, out=out, log_sum_exp=log_sum_exp, scale=scale)
            if not backward:
                return {"out": out}
            self.kernels.run("attention_backward", **inputs, out=out, log_sum_exp=log_sum_exp, grad_out=grad_out,
                             scale=scale, **gradients)
            return {"out": out, **gradients}

        def by_head(tensor):
            return tensor.view(sequences, length, -1, head_dim).transpose(1, 2)

        def attend(q, k, v):
            o = F.scaled_dot_product_attention(by_head(q), by_head(k), by_head(v), is_causal=True, enable_gqa=True)
            return o.transpose(1, 2).reshape(n, heads * head_dim)

        def torch_peer():
            if not backward:
                return Variant(lambda: {"out": attend(queries, keys, values)})
            both = self.differentiated(attend, [queries, keys, values], list(gradients), grad_out)

            def forward_backward():
                attended, found = both()
                return {"out": attended, **found}

            return Variant(forward_backward)

        # Pairs that are seen: half the square. Two products forward; five backward, one of them again.
        flops = 2 * sequences * heads * head_dim * length * (length + 1) // 2 * 2
        return Row(
            task=f"attention, forward{' + backward' if backward else ''}, {sequences} x {length} tokens, "
            f"{heads} heads, {key_heads} key heads of {head_dim}, bf16",
            ours=lambda: Variant(run),
            wrong=lambda: run(scale=1.2 * head_dim**-0.5),
            peers={"sdpa": torch_peer},
            tolerances={"out": 1e-2, **({name: 3e-2 for name in gradients} if backward else {})},
            bytes=2 * (queries.nbytes + keys.nbytes) * (3 if backward else 1),
            flops=flops * (7 if backward else 2) // 2,
            note="floor: operations at the measured rate of a bf16 product; memory stays in the L2",
        )

    def decoding(self):
        prompts, of_each, prompt, own, heads, key_heads, head_dim = self.sizes.decoding
        rows, length = prompts * of_each, prompt + own
        queries = self.normal(rows, heads * head_dim, dtype=torch.bfloat16)
        # The prompts, then what each row has of its own.
        keys, values = (self.normal(prompts * prompt + rows * own, key_heads * head_dim, dtype=torch.bfloat16)
                        for _ in range(2))
        out = torch.empty_like(queries)
        segments = [(row // of_each * prompt, prompt, prompts * prompt + row * own, own) for row in range(rows)]
        seen = torch.tensor(segments, dtype=torch.int32, device=self.device)

        def run(scale=head_dim**-0.5):
            self.kernels.run("cached_attention", queries=queries, key_cache=keys, value_cache=values, segments=seen,
                             out=out, head_dim=head_dim, scale=scale, max_length=length)
            return {"out": out}

        def sdpa():
            # A cache of its own for each row, as a static cache has it.
            def whole(cache):
                of_row = [torch.cat((cache[a:a + m], cache[b:b + n])) for a, m, b, n in segments]
                return torch.stack(of_row).view(rows, length, key_heads, head_dim).transpose(1, 2).contiguous()

            own_keys, own_values, q = whole(keys), whole(values), queries.view(rows, heads, 1, head_dim)
            return Variant(lambda: {"out": F.scaled_dot_product_attention(q, own_keys, own_values, enable_gqa=True)
                                    .view(rows, heads * head_dim)})

        return Row(
            task=f"decoding attention, {rows} rows of {prompt} + {own} tokens, {of_each} share a prompt, {heads} heads, "
            f"{key_heads} key heads of {head_dim}, bf16",
            ours=lambda: Variant(run),
            wrong=lambda: run(scale=1.2 * head_dim**-0.5),
            peers={"sdpa": sdpa},
            tolerances={"out": 1e-2},
            bytes=keys.nbytes + values.nbytes + 2 * queries.nbytes,
            graph=True,
            note="bytes: each prompt once; sdpa has a copy of it for each row",
        )
