# SPDX-License-Identifier: Apache-2.0
"""A PyTorch program that splits a model over two GPUs by hand: a Llama-shaped model (random weights, bf16) with the
first half of its layers on cuda:0 and the rest, with the head, on cuda:1; it prefills and decodes greedily.

Prints one JSON line: the tokens, a digest of the last logits, and times. Knows nothing of GreenBoost.
"""
import argparse
import copy
import hashlib
import json
import statistics
import time

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


class Split:
    """The model's own layers, called one after the other; only the hidden state goes from one GPU to the other."""

    def __init__(self, layers, hidden, first_layers):
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=hidden * 43 // 16, num_hidden_layers=layers,
            num_attention_heads=hidden // 128, num_key_value_heads=hidden // 512, vocab_size=32000,
            max_position_embeddings=4096, tie_word_embeddings=False,
        )
        torch.manual_seed(7)
        torch.set_default_dtype(torch.bfloat16)
        with FIRST:
            self.model = LlamaForCausalLM(config).eval()
        self.devices = [FIRST if layer < first_layers else SECOND for layer in range(layers)]
        start = time.perf_counter()
        for layer, device in zip(self.model.model.layers, self.devices):
            layer.to(device)
        self.model.model.norm.to(SECOND)
        self.model.lm_head.to(SECOND)
        torch.cuda.synchronize(SECOND)
        self.move_seconds = time.perf_counter() - start
        rotary = self.model.model.rotary_emb
        self.rotary = {FIRST: rotary, SECOND: copy.deepcopy(rotary).to(SECOND)}

    def step(self, ids, start, cache):
        """ids: on FIRST. returns: the logits behind the last token, on SECOND."""
        x = self.model.model.embed_tokens(ids)
        places = {}
        for device in (FIRST, SECOND):
            positions = torch.arange(start, start + ids.shape[1], device=device).unsqueeze(0)
            places[device] = (positions, self.rotary[device](x if device == FIRST else self.like(x), positions))
        for layer, device in zip(self.model.model.layers, self.devices):
            x = x.to(device)
            positions, embeddings = places[device]
            with torch.cuda.device(device):
                out = layer(x, position_ids=positions, position_embeddings=embeddings, past_key_values=cache,
                            use_cache=True, cache_position=positions[0])
            x = out[0] if isinstance(out, tuple) else out
        with torch.cuda.device(SECOND):
            return self.model.lm_head(self.model.model.norm(x[:, -1:]))

    @staticmethod
    def like(x):
        """The embedding asks for nothing but a type and a device."""
        return torch.empty((1, 1, 1), dtype=x.dtype, device=SECOND)


@torch.inference_mode()
def generate(split, prompt_tokens, new_tokens):
    ids = torch.arange(prompt_tokens, device=FIRST).remainder(32000).unsqueeze(0) * 13 % 32000
    cache = DynamicCache()
    start = time.perf_counter()
    logits = split.step(ids, 0, cache)
    token = logits.argmax(-1)
    tokens = [token.item()]
    prefill_seconds = time.perf_counter() - start
    milliseconds = []
    for position in range(prompt_tokens, prompt_tokens + new_tokens - 1):
        start = time.perf_counter()
        logits = split.step(token.to(FIRST), position, cache)
        token = logits.argmax(-1)
        tokens.append(token.item())
        milliseconds.append((time.perf_counter() - start) * 1e3)
    last = logits[0, -1].float().cpu().numpy().tobytes()
    return {
        "tokens": tokens,
        "logitsSha256": hashlib.sha256(last).hexdigest(),
        "prefillTokens": prompt_tokens,
        "prefillSeconds": round(prefill_seconds, 4),
        "tokenMilliseconds": round(statistics.median(milliseconds), 3),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--first-layers", type=int, default=None)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    first = args.layers // 2 if args.first_layers is None else args.first_layers
    split = Split(args.layers, args.hidden, first)
    generate(split, args.prompt_tokens, 4)  # warm-up
    result = generate(split, args.prompt_tokens, args.new_tokens)
    result["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    result["moveSeconds"] = round(split.move_seconds, 2)
    result["secondBytes"] = sum(p.numel() * p.element_size() for p in split.model.parameters() if p.device == SECOND)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
