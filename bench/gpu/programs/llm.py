# SPDX-License-Identifier: Apache-2.0
"""The Llama-shaped model of the GPU checks as people run it: greedy decode and prefill, timed pass by pass.

    llm.py --engine eager|graphs|accelerate [--vram BYTES] [--layers 16] [--tokens 32] [--warm 8] [--prefill 2048]

eager: plain PyTorch. graphs: torch.compile(mode="reduce-overhead") with a static KV cache, decode only. accelerate: the
layers that do not fit --vram are offloaded to the CPU by Hugging Face accelerate. Prints one JSON line; knows nothing
of GreenBoost.
"""
import argparse
import hashlib
import json
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "test" / "gpu" / "programs"))
import llama  # noqa: E402


def offload(model, vram):
    from accelerate import dispatch_model, infer_auto_device_map

    model = model.to("cpu")
    torch.cuda.empty_cache()
    device_map = infer_auto_device_map(
        model, max_memory={0: vram, "cpu": 64 << 30}, no_split_module_classes=["LlamaDecoderLayer"]
    )
    return dispatch_model(model, device_map)


def digest(logits) -> str:
    return hashlib.sha256(logits[0, -1].float().cpu().numpy().tobytes()).hexdigest()[:16]


class Touched:
    """Bytes that passes touch: every live byte at their peak, but of the embedding table its tokens' rows only."""

    def __init__(self, model, tokens):
        table = model.model.embed_tokens.weight
        rows = min(tokens, table.shape[0]) * table.shape[1] * table.element_size()
        self._other = rows - table.numel() * table.element_size()
        torch.cuda.reset_peak_memory_stats()

    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated() + self._other


def prompt(count):
    return torch.arange(count, device="cuda").unsqueeze(0) * 13 % 32000


@torch.inference_mode()
def decode(model, engine, prompt_tokens, new_tokens, warm):
    def step(token, cache):
        return model(token, past_key_values=cache, use_cache=True, logits_to_keep=1).logits

    cache = None
    if engine == "graphs":
        from transformers import StaticCache

        cache = StaticCache(config=model.config, max_cache_len=prompt_tokens + new_tokens)
    out = model(prompt(prompt_tokens), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache, token = out.past_key_values, out.logits.argmax(-1)
    if engine == "graphs":
        step = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    tokens, seconds = [token.item()], []
    touched = Touched(model, 1)
    for _ in range(new_tokens - 1):
        start = time.perf_counter()
        torch.compiler.cudagraph_mark_step_begin()
        logits = step(token, cache)
        token = logits.argmax(-1)
        tokens.append(token.item())
        seconds.append(time.perf_counter() - start)
        if len(seconds) == warm:
            touched = Touched(model, 1)
    results = {"tokens": tokens, "decodeLogits": digest(logits)}
    return results, {"touchedBytes": touched.bytes(), "seconds": [round(s, 6) for s in seconds[warm:]]}


@torch.inference_mode()
def prefill(model, count, warm, passes):
    ids = prompt(count)
    seconds, digests = [], set()
    touched = None
    for number in range(warm + passes):
        if number == warm:
            touched = Touched(model, count)
        start = time.perf_counter()
        logits = model(ids, use_cache=True, logits_to_keep=1).logits
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        digests.add(digest(logits))
    results = {"prefillLogits": sorted(digests)}
    return results, {"touchedBytes": touched.bytes(), "seconds": [round(s, 6) for s in seconds[warm:]]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["eager", "graphs", "accelerate"], default="eager")
    parser.add_argument("--vram", type=int)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--warm", type=int, default=8)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args()
    model = llama.build(args.layers)
    if args.engine == "accelerate":
        model = offload(model, args.vram)
    results, phases = {}, {}
    results, phases["decode"] = decode(model, args.engine, args.prompt, args.tokens, args.warm)
    if args.engine != "graphs":
        more, phases["prefill"] = prefill(model, args.prefill, 3, args.passes)
        results.update(more)
    print(json.dumps({
        "results": results,
        "peakBytes": torch.cuda.max_memory_reserved(),
        "parameterBytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "phases": phases,
    }), flush=True)


main()
