"""Loads model folders with transformers and says what it makes of them, for transformers.test.ts beside it.

    python test/process/load_in_transformers.py FOLDER... < request.json

request.json: {"sequences": [{"promptIds": [...], "completionIds": [...]}, ...], "text": "..."}. Prints a JSON list with an
object a folder: the log-probs of the completions, one after another; weights that are missing, unexpected or of another
shape; the stop tokens; and the ids of the text and the rendered chat "Hi" as the folder's tokenizer has them.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast


def answer(folder, request):
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    # For Qwen2 models AutoTokenizer of transformers 5 takes the way of splitting text from its own code, not the folder.
    tokenizers = PreTrainedTokenizerFast if model.config.model_type == "qwen2" else AutoTokenizer
    tokenizer = tokenizers.from_pretrained(folder)
    packed = []
    with torch.no_grad():
        for sequence in request["sequences"]:
            prompt, completion = sequence["promptIds"], sequence["completionIds"]
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            packed += torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()
    chat = [{"role": "user", "content": "Hi"}]
    problems = [list(loading[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    return {
        "logProbs": packed,
        "problems": sum(problems, []),
        "stopTokenIds": model.generation_config.eos_token_id,
        "ids": tokenizer(request["text"])["input_ids"],
        "chat": tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        if tokenizer.chat_template
        else None,
    }


if __name__ == "__main__":
    request = json.load(sys.stdin)
    json.dump([answer(folder, request) for folder in sys.argv[1:]], sys.stdout)
