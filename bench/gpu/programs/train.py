# SPDX-License-Identifier: Apache-2.0
"""Training steps of a Llama-shaped model with AdamW: weights, gradients, both moments and activations. Prints one JSON
line: the losses, seconds of each step, bytes a step touches. Knows nothing of GreenBoost."""
import argparse
import json
import os
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402


def build(layers):
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=32000, max_position_embeddings=2048, tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    return model.train()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    model = build(args.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, 32000, (args.batch, args.length), device="cuda")
    losses, seconds = [], []
    for step in range(args.warm + args.passes):
        if step == args.warm:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    touched, peak = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    weight_sum = sum(p.double().sum().item() for p in model.parameters())
    print(json.dumps({
        "results": {"losses": losses, "weightSum": weight_sum},
        "peakBytes": peak,
        # All of it changes in every step: weights, moments, gradients, activations.
        "phases": {"train": {
            "touchedBytes": touched, "writtenBytes": touched,
            "seconds": [round(s, 6) for s in seconds[args.warm:]],
        }},
    }), flush=True)


main()
