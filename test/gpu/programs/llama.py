# SPDX-License-Identifier: Apache-2.0
"""An unmodified PyTorch program: a Llama-shaped model (random weights, bf16, 6.2 GB) prefills and decodes greedily.

Prints one JSON line: the tokens, a digest of the last logits, and times. Knows nothing of GreenBoost.
"""
import argparse
import hashlib
import json
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def build(layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=32000, max_position_embeddings=4096, tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    return model.eval()


@torch.inference_mode()
def generate(model: LlamaForCausalLM, prompt_tokens: int, new_tokens: int) -> dict:
    ids = torch.arange(prompt_tokens, device="cuda").remainder(32000).unsqueeze(0) * 13 % 32000
    start = time.perf_counter()
    out = model(ids, use_cache=True)
    token = out.logits[:, -1:].argmax(-1)
    torch.cuda.synchronize()
    prefill_seconds = time.perf_counter() - start
    tokens = [token.item()]
    start = time.perf_counter()
    for _ in range(new_tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        tokens.append(token.item())
    decode_seconds = time.perf_counter() - start
    logits = out.logits[0, -1].float().cpu().numpy().tobytes()
    return {
        "tokens": tokens,
        "logitsSha256": hashlib.sha256(logits).hexdigest(),
        "prefillTokens": prompt_tokens,
        "prefillSeconds": round(prefill_seconds, 4),
        "decodeTokensPerSecond": round((new_tokens - 1) / decode_seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--long-prefill", type=int, default=0)
    args = parser.parse_args()
    model = build(args.layers)
    result = generate(model, args.prompt_tokens, args.new_tokens)
    if args.long_prefill:
        generate(model, args.long_prefill, 1)  # warm-up
        result["longPrefill"] = generate(model, args.long_prefill, 1)
    result["parameterBytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
    result["reservedPeakBytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
