# SPDX-License-Identifier: Apache-2.0
"""Kernels that run on the feeder which holds their data (docs/adr/0013-dispatch.md): gb_layers, whose every bit is
known, and PyTorch, unmodified, decode with part of their layers in the VRAM of a feeder: the same tokens as natively,
no weight back on the wire. The feeder is a process of its own on the second GPU; on the only one, where there is just
one: that shows that it works, and its times say nothing. Needs Node.js."""
import subprocess
import sys

import common
import machine
from common import GIB, MIB

LAYERS = [common.BUILD / "bin" / "gb_layers", "--layers", 16, "--layer-bytes", 128 * MIB, "--kv-bytes", 4 * MIB,
          "--width", 4096, "--batch-rows", 2, "--tokens", 64, "--no-reference", "--verify"]
LAYERS_LIMITS = ("--vram-budget", "1GiB", "--ram-budget", "256MiB")
TORCH = [sys.executable, common.PROGRAMS / "llama.py", "--new-tokens", "64"]
TORCH_LIMITS = ("--vram-budget", "3GiB", "--ram-budget", "256MiB")
TORCH_ACTIVATION_BYTES = 4096 * 2
SAME_LAYERS = ("tokens_sum", "logits", "weights")
SAME_TORCH = ("tokens", "logitsSha256")
THERE_WANTED = 0.95
VISITS_WANTED = 2
OVER_ACTIVATION_WANTED = 4


def gpu_count():
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.count("GPU ")


def visits(stats, tokens, activation_bytes):
    """What went to the feeder and back, by the shim's count, loading included."""
    total = {name: sum(owner[name] for owner in stats["launchOwners"])
             for name in ("launchCount", "crossingCount", "crossingSentBytes", "crossingReceivedBytes")}
    undispatched = {name: count for name, count in stats.items() if name.startswith("undispatched") and count}
    here = sum(undispatched.values())
    crossed = total["crossingSentBytes"] + total["crossingReceivedBytes"]
    return {
        **total,
        "undispatched": undispatched,
        "shareThere": round(stats["dispatchedCount"] / max(1, stats["dispatchedCount"] + here), 4),
        "crossingsPerToken": round(total["crossingCount"] / tokens, 2),
        "bytesPerCrossingOverActivation": round(crossed / max(1, total["crossingCount"]) / activation_bytes, 2),
        "feederVramPeakBytes": stats["feederVramPeakBytes"],
        "fetchBytes": stats["fetchBytes"],
    }


def problems_of(name, row, native, merged, same):
    for key in same:
        if native[key] != merged[key]:
            yield f"{name}: {key} is not what it is natively"
    if row["shareThere"] < THERE_WANTED:
        yield f"{name}: {row['shareThere']:.2%} of the launches that name the feeder's ranges ran there"
    if row["crossingsPerToken"] > VISITS_WANTED * 1.5:
        yield f"{name}: {row['crossingsPerToken']} crossings a token"
    if row["bytesPerCrossingOverActivation"] > OVER_ACTIVATION_WANTED:
        yield f"{name}: {row['bytesPerCrossingOverActivation']} times the activations in a crossing"
    if row["feederVramPeakBytes"] == 0:
        yield f"{name}: nothing lay on the feeder"


def layers_row(host):
    native, _, _ = common.run(LAYERS)
    merged, stats, _ = host.run([*LAYERS_LIMITS, "--remote", "merged"], LAYERS)
    row = visits(stats, merged["steps"], merged["activation_bytes"])
    row["tokenMilliseconds"] = {"native": native["token_milliseconds"], "merged": merged["token_milliseconds"]}
    row["launchCpuMicros"] = {"native": native["launch_cpu_us"], "merged": merged["launch_cpu_us"]}
    return row, list(problems_of("gb_layers", row, native, merged, SAME_LAYERS))


def torch_row(host):
    native, _, _ = common.run(TORCH)
    merged, stats, _ = host.run([*TORCH_LIMITS, "--remote", "merged"], TORCH)
    row = visits(stats, len(merged["tokens"]), TORCH_ACTIVATION_BYTES)
    rate = "decodeTokensPerSecond"
    row[rate] = {"native": native[rate], "merged": merged[rate]}
    problems = list(problems_of("PyTorch", row, native, merged, SAME_TORCH))
    if stats["feederVramPeakBytes"] < native["parameterBytes"] - 4 * GIB:
        problems.append("PyTorch: less than expected of the model lay on the feeder")
    return row, problems


def check():
    count = gpu_count()
    second = {"CUDA_VISIBLE_DEVICES": "1" if count > 1 else "0"}
    figures, problems = {"gpus": count}, []
    with machine.pair("--gpu", "cuda", "--vram", "0=8GiB", "--ram", "0", feeder_environment=second) as (host, _):
        for name, row_of in (("layers", layers_row), ("torch", torch_row)):
            try:
                figures[name], found = row_of(host)
            except RuntimeError as error:
                found = [f"{name}: {str(error)[-1500:]}"]
            problems += found
    return figures, problems
