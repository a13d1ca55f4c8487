# SPDX-License-Identifier: Apache-2.0
"""Programs that do one step for each line they are told: steps of several, side by side in interleaved rounds."""
import contextlib
import json
import os
import pathlib
import selectors
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
MIB = 1 << 20
STEP_SECONDS = float(os.environ.get("GREENBOOST_CHECK_LIMIT_SECONDS", "420"))


class Steps:
    """A program that has been started; its first answer, when it is ready, is `start`."""

    def __init__(self, command, env=None):
        self.name = os.path.basename(str(command[0]))
        self._process = subprocess.Popen(
            [str(part) for part in command], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._kept = b""
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._process.stdout, selectors.EVENT_READ)
        self.start = self._answer("start")

    def _answer(self, what):
        while b"\n" not in self._kept:
            if not self._ready.select(STEP_SECONDS):
                raise RuntimeError(f"{self.name} has not done {what} in {STEP_SECONDS:.0f} s")
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                raise RuntimeError(f"{self.name} ended with {self._process.wait()} in {what}")
            self._kept += more
        line, self._kept = self._kept.split(b"\n", 1)
        return json.loads(line)

    def do(self, command):
        """One step. returns: its answer."""
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._answer(command)

    def rate(self, command):
        """One step of a program that tells bytes and seconds. returns: GB/s."""
        answer = self.do(command)
        return answer["bytes"] / answer["seconds"] / 1e9

    def end(self):
        """Ends its input and waits. Raises RuntimeError when it does not end well."""
        self._process.stdin.close()
        if self._process.wait(60) != 0:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}")

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._ready.close()
        for file in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                file.close()


def rounded(values):
    return [round(value, 3) for value in values]


def median(values):
    return round(statistics.median(values), 3)


def make(*targets):
    """Builds what is measured; nothing of it needs more than a C compiler."""
    subprocess.run(["make", "-s", f"-j{os.cpu_count()}", *targets], cwd=ROOT, check=True, stdout=sys.stderr)
