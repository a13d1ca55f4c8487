# SPDX-License-Identifier: Apache-2.0
"""What GPU checks and benches share: building, running programs under the shim, reading what it counted, results."""
import contextlib
import ctypes
import datetime
import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SHIM = BUILD / "lib" / "libgreenboost_cuda.so"
PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
MIB = 1 << 20
GIB = 1 << 30
LIMIT_SECONDS = float(os.environ.get("GREENBOOST_CHECK_LIMIT_SECONDS", "420"))  # of one program


class LeftOut(Exception):
    """This machine lacks what a check needs; the text says what."""


def build_natives() -> None:
    subprocess.run(["make", "-s", "-j8", "natives"], cwd=ROOT, check=True)


@functools.cache
def nvcc(source, *flags: str) -> pathlib.Path:
    """Builds programs/<source> (or the source at that absolute path) with the machine's CUDA toolkit; returns the
    executable."""
    source = PROGRAMS / source
    out = BUILD / "gpu" / source.stem
    out.parent.mkdir(parents=True, exist_ok=True)
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    compiler = f"{toolkit}/bin/nvcc" if os.path.exists(f"{toolkit}/bin/nvcc") else "nvcc"
    subprocess.run([compiler, "-O3", "-std=c++17", "-arch=native", "-o", str(out), str(source), *flags], check=True)
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


class Running:
    """A program that has been started; its statistics file lives until it is closed."""

    def __init__(self, command, env=None):
        env = dict(env if env is not None else os.environ)
        self._stats = tempfile.NamedTemporaryFile(suffix=".json")
        if "LD_PRELOAD" in env or env.get("GREENBOOST_CHECK_STATS"):
            env["GREENBOOST_STATS_FILE"] = self._stats.name
        self.name = os.path.basename(str(command[0]))
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.start = time.monotonic()
        self.process = subprocess.Popen([str(c) for c in command], env=env, stdout=self._out, stderr=self._err)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for file in (self._stats, self._out, self._err):
            file.close()

    def _text(self, file):
        file.seek(0)
        return file.read()

    def result(self, timeout=None):
        """Waits; returns (last JSON or number on stdout, the shim's statistics or None, seconds). Raises RuntimeError
        with the end of its output when it fails or is not done in time."""
        timeout = timeout or LIMIT_SECONDS
        try:
            status = f"ended with {self.process.wait(timeout)}"
        except subprocess.TimeoutExpired:
            status = f"is not done after {timeout} s"
        seconds = time.monotonic() - self.start
        out = self._text(self._out)
        if self.process.returncode != 0:
            tail = (out[-1500:] + self._text(self._err)[-3000:]).strip()
            raise RuntimeError(f"{self.name} {status}: {tail}")
        text = pathlib.Path(self._stats.name).read_text()
        lines = [line for line in out.splitlines() if line.strip()]
        return json.loads(lines[-1]), json.loads(text) if text else None, seconds


def run(command, env=None, timeout=None):
    """Runs `command` for at most `timeout` (LIMIT_SECONDS). returns: (last JSON or number on stdout, the shim's
    statistics or None, seconds)."""
    with contextlib.closing(Running(command, env)) as running:
        return running.result(timeout)


class _NvmlMemory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@functools.cache
def _nvml():
    library = ctypes.CDLL("libnvidia-ml.so.1")
    device = ctypes.c_void_p()
    index = int(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])  # NVML counts every GPU
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
        raise RuntimeError(f"NVML does not answer for GPU {index}")
    return library, device


def gpu_used_bytes() -> int:
    """What NVML says is used on our GPU, by everybody."""
    library, device = _nvml()
    memory = _NvmlMemory()
    status = library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    if status:
        raise RuntimeError(f"nvmlDeviceGetMemoryInfo: {status}")
    return memory.used


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


def whole_chunks(size: float) -> int:
    """Rounded down to 2 MiB, the granularity of budgets."""
    return int(size) // (2 * MIB) * (2 * MIB)


def record(out: pathlib.Path, kind: str, name: str, command: str, work) -> dict:
    """Calls work() for (figures, problems) and writes them to <out>/<kind>-<name>.json with the machine and the date.
    LeftOut is printed and writes nothing. returns: the result; "leftOut" in it instead of figures."""
    start = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        figures, problems = work()
    except LeftOut as reason:
        print(f"left out: {reason}", flush=True)
        return {"name": name, "leftOut": str(reason), "problems": []}
    except Exception as error:  # what cannot run has failed
        traceback.print_exc()
        figures, problems = {}, [f"{type(error).__name__}: {error}"[:2000]]
    result = {
        "check": name,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "hardware": hardware(),
        "seconds": round(time.monotonic() - start, 1),
        "passed": not problems,
        "problems": problems,
        "figures": figures,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{kind}-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    for problem in problems:
        print(f"PROBLEM {problem}", flush=True)
    return result
