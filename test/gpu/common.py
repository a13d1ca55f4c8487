# SPDX-License-Identifier: Apache-2.0
"""What the GPU checks share: building, running a program under the shim, and reading what the shim counted."""
import json
import os
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SHIM = BUILD / "lib" / "libgreenboost_cuda.so"
PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
MIB = 1 << 20
GIB = 1 << 30


def build_natives() -> None:
    subprocess.run(["make", "-s", "-j8", "natives"], cwd=ROOT, check=True)


def nvcc(source: str, *flags: str) -> pathlib.Path:
    """Builds programs/<source> with the machine's CUDA toolkit; returns the executable."""
    out = BUILD / "gpu" / pathlib.Path(source).stem
    out.parent.mkdir(parents=True, exist_ok=True)
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    compiler = f"{toolkit}/bin/nvcc" if os.path.exists(f"{toolkit}/bin/nvcc") else "nvcc"
    subprocess.run([compiler, "-O3", "-arch=native", "-o", str(out), str(PROGRAMS / source), *flags], check=True)
    return out


def shim_environment(vram=None, ram=None, **extra) -> dict:
    """The variables `greenboost run` sets, for checks that need no agent. Sizes in bytes."""
    env = dict(os.environ)
    env["LD_PRELOAD"] = str(SHIM)
    if vram is not None:
        env["GREENBOOST_VRAM_BUDGET"] = str(vram)
    if ram is not None:
        env["GREENBOOST_RAM_BUDGET"] = str(ram)
    env.update({key: str(value) for key, value in extra.items()})
    return env


def run(command, env=None, timeout=420):
    """Runs `command`; returns (last JSON or number on stdout, the shim's statistics or None, seconds)."""
    env = dict(env if env is not None else os.environ)
    with tempfile.NamedTemporaryFile(suffix=".json") as stats:
        if "LD_PRELOAD" in env or env.get("GREENBOOST_CHECK_STATS"):
            env["GREENBOOST_STATS_FILE"] = stats.name
        start = time.monotonic()
        done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, timeout=timeout)
        seconds = time.monotonic() - start
        if done.returncode != 0:
            tail = (done.stdout[-1500:] + done.stderr[-3000:]).strip()
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {tail}")
        text = pathlib.Path(stats.name).read_text()
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        return json.loads(lines[-1]), json.loads(text) if text else None, seconds


def hardware() -> dict:
    """The machine, as its own tools name it."""
    fields = "name,driver_version,memory.total,pcie.link.gen.current"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    first = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    name, driver, memory, pcie = first.split(", ")
    model = next(
        (l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown"
    )
    return {
        "gpu": name,
        "driver": driver,
        "gpuMemory": memory,
        "pcieGeneration": pcie,
        "cpu": model,
        "cores": os.cpu_count(),
    }
