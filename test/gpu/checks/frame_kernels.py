# SPDX-License-Identifier: Apache-2.0
"""The hash and the write-back kernel of the staging engine: right against their definition on the CPU, and how fast."""
import subprocess

import common
from common import GIB, MIB

# Of the rate at which the driver copies, reads and writes counted: a launch for 64 MiB takes 20 us, 2 of them to start.
HASH_SHARE = 0.65


def check():
    program = common.BUILD / "gpu" / "frame_kernels"
    program.parent.mkdir(parents=True, exist_ok=True)
    sources = [common.PROGRAMS / "frame_kernels.c", common.ROOT / "shim" / "src" / "frame_kernels.c"]
    # Against our own declarations; the simulated driver is linked and the machine's is loaded.
    subprocess.run(
        ["gcc", "-O2", f"-I{common.ROOT}/driver/include", *map(str, sources), "-o", str(program),
         f"-L{common.BUILD}/lib/sim", "-l:libcuda.so.1"],
        check=True,
    )
    figures, _, seconds = common.run([program, 64 * MIB, 20])
    figures["seconds"] = round(seconds, 1)
    figures["device"] = {"read": 4 * GIB, "frame": 64 * MIB}
    problems = []
    if figures["wrong"]:
        problems.append(f"{figures['wrong']} wrong answers")
    figures["hashShareOfCopy"] = round(figures["hashBytesPerSecond"] / figures["copyBytesPerSecond"], 3)
    if figures["hashShareOfCopy"] < HASH_SHARE:
        problems.append(f"the hash reads at {figures['hashShareOfCopy']} of the rate of copies")
    return figures, problems
