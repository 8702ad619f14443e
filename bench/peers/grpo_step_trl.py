"""One GRPO step of TRL on the CPU, timed: the peer of bench/grpo-step.ts.

    pip install torch transformers trl
    python bench/peers/grpo_step_trl.py MODEL_DIR --steps 6 --threads 2

Prints one JSON object a line on stdout for every step after the warm-up: {"step", "seconds", "completionTokens"}.
Prompts, completions and updates are those of the TypeScript side: `prompts` prompts x `generations` completions of
exactly `tokens` tokens, one optimiser update, no KL, no gradient checkpointing, float32.
"""

import argparse
import json
import os
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--prompts", type=int, default=4)
parser.add_argument("--generations", type=int, default=8)
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--prompt-tokens", type=int, default=16)
args = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from transformers.utils import logging as hf_logging  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
hf_logging.set_verbosity_error()

tokenizer = AutoTokenizer.from_pretrained(args.model)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
vocabulary = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
rows = args.prompts * (args.steps + args.warmup)
prompts = ["".join(vocabulary[10 + (7 * row + i) % 50] for i in range(args.prompt_tokens)) for row in range(rows)]


def reward(completions, **_):
    # Unequal inside each group, so that every token carries a gradient.
    return [float(i % 3) for i in range(len(completions))]


class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__):
        self.start = time.perf_counter()

    def on_step_end(self, _args, state, *_, **__):
        seconds = time.perf_counter() - self.start
        if state.global_step > args.warmup:
            tokens = args.prompts * args.generations * args.tokens
            print(json.dumps({"step": state.global_step, "seconds": seconds, "completionTokens": tokens}), flush=True)


config = GRPOConfig(
    output_dir=os.path.join(args.model, "trl-out"),
    per_device_train_batch_size=args.prompts * args.generations,
    num_generations=args.generations,
    max_completion_length=args.tokens,
    max_steps=args.steps + args.warmup,
    generation_kwargs={"min_new_tokens": args.tokens},
    gradient_checkpointing=False,
    beta=0.0,
    learning_rate=1e-6,
    bf16=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
trainer = GRPOTrainer(
    model=model,
    processing_class=tokenizer,
    reward_funcs=reward,
    args=config,
    train_dataset=Dataset.from_dict({"prompt": prompts}),
    callbacks=[Clock()],
)
# The first batch is generated inside the first step, so a step holds one rollout and one update.
trainer.train()
versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
print(json.dumps({"versions": versions}))
