# SPDX-License-Identifier: Apache-2.0
"""A feeder's GPU as a further CUDA device (docs/adr/0014-devices-mode.md): programs that use several GPUs, unmodified,
with the second one in another process behind a lane. gb_devices checks every kind of copy, stream order and question;
PyTorch decodes with half of its layers on cuda:1, against the same split on two local GPUs: the same tokens, and what a
token takes on either. Needs two GPUs and Node.js."""
import statistics
import subprocess
import sys

import common
import machine

COMMAND = [common.BUILD / "bin" / "gb_devices", "--count", 2]
TORCH = [sys.executable, common.PROGRAMS / "split_llama.py", "--new-tokens", "64"]
PAIRS = 3
SAME = ("tokens", "logitsSha256")


def gpu_count():
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.count("GPU ")


def row_of(native, far, stats):
    row = {
        "tokenMilliseconds": {"twoLocalGpus": statistics.median(run["tokenMilliseconds"] for run in native),
                              "feeder": statistics.median(run["tokenMilliseconds"] for run in far)},
        "prefillSeconds": {"twoLocalGpus": statistics.median(run["prefillSeconds"] for run in native),
                           "feeder": statistics.median(run["prefillSeconds"] for run in far)},
        "moveSeconds": {"twoLocalGpus": native[0]["moveSeconds"], "feeder": far[0]["moveSeconds"]},
        "secondBytes": far[0]["secondBytes"],
        "devices": far[0]["devices"],
        "launchesThere": stats["dispatchedCount"],
        "feederVramPeakBytes": stats["feederVramPeakBytes"],
    }
    times = row["tokenMilliseconds"]
    row["decodeOverTwoLocalGpus"] = round(times["twoLocalGpus"] / times["feeder"], 3)
    return row


def problems_of(native, far, stats):
    for key in SAME:
        if any(run[key] != native[0][key] for run in native + far):
            yield f"PyTorch: {key} is not what it is on two local GPUs"
    if stats["dispatchedCount"] == 0 or stats["feederVramPeakBytes"] < far[0]["secondBytes"]:
        yield "PyTorch: its second half did not lie, or run, on the feeder"


def check():
    if gpu_count() < 2:
        raise common.LeftOut("there is one GPU: a feeder on it would say nothing of two")
    figures, problems = {}, []
    native, far = [], []
    with machine.pair("--gpu", "cuda", "--vram", "0=16GiB", "--ram", "0",
                      feeder_environment={"CUDA_VISIBLE_DEVICES": "1"}) as (host, _):
        host.env["CUDA_VISIBLE_DEVICES"] = "0"
        options = ["--remote", "devices", "--report", "honest"]
        result, _, _ = host.run(options, [*COMMAND, "--far", 1])
        figures["gb_devices"] = result
        if result["failures"] != 0:
            problems.append(f"gb_devices: {result['failures']} of {result['checks']} checks failed")
        for _ in range(PAIRS):
            native.append(common.run(TORCH)[0])
            result, stats, _ = host.run(options, TORCH)
            far.append(result)
        figures["torch"] = row_of(native, far, stats)
        problems += problems_of(native, far, stats)
    return figures, problems
