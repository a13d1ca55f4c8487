# SPDX-License-Identifier: Apache-2.0
"""Changed blocks (driver/blocks) on a GPU: the tests of c-blocks on its driver, its kernels against their own text,
followed instruction by instruction, and what finding and moving changed blocks takes."""
import subprocess
import tempfile

import common
from common import GIB, MIB

TESTS = common.ROOT / "test" / "c" / "blocks"
BLOCKS = common.ROOT / "driver" / "blocks"


def build(source):
    """Against our own declarations; the simulated driver is linked and the machine's is loaded."""
    program = common.BUILD / "gpu" / source.stem
    program.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-O2", "-std=gnu11", f"-I{common.ROOT}/driver/include", f"-I{BLOCKS}", f"-I{TESTS}", str(source),
         *map(str, sorted(BLOCKS.glob("*.c"))), "-o", str(program), f"-L{common.BUILD}/lib/sim", "-l:libcuda.so.1"],
        check=True,
    )
    return program


def passes(command):
    return subprocess.run([str(word) for word in command], timeout=common.LIMIT_SECONDS).returncode == 0


def check():
    problems = []
    for name, *arguments in (["edges_test"], ["model_test", 1, 3000], ["model_test", 2, 3000]):
        if not passes([build(TESTS / f"{name}.c"), *arguments]):
            problems.append(f"{name} {arguments} failed")
    with tempfile.TemporaryDirectory() as folder:
        written = passes([build(TESTS / "text_test.c"), folder])
        if not written or not passes(["python3", TESTS / "ptx_check.py", folder]):
            problems.append("the kernels do not do what their text says")
    figures, _, seconds = common.run([build(common.PROGRAMS / "blocks_rate.c"), 4 * GIB, 20])
    figures["seconds"] = round(seconds, 1)
    figures["crossing"] = {"ranges": 10, "rangeBytes": 2 * MIB, "changedBytes": 640 * 1024}
    return figures, problems
