# SPDX-License-Identifier: Apache-2.0
"""A host with little memory and a feeder with a GPU, joined by loopback or by a delay link: real daemons, one machine.

The delay link joins two network namespaces, so the bench itself runs in one (run.py sees to it), as the host."""
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
sys.path.insert(0, str(ROOT / "test" / "gpu"))
import machine  # noqa: E402

PORT = "9745"
MIB = 1 << 20
CLI = machine.CLI


def simulated(name, vram):
    """A GPU of its own for each machine."""
    return {"GREENBOOST_GPU": "sim", "GBSIM_GPU": f"dispatch-{os.getpid()}-{name}", "GBSIM_VRAM": str(vram)}


class Machine(machine.Machine):
    """One that may live in the network namespace of another process."""

    def __init__(self, folder, holder=None, **extra):
        super().__init__(folder, **extra)
        self.prefix = [] if holder is None else ["nsenter", "-t", str(holder), "--net", "--"]

    def call(self, *arguments, timeout=60, **extra):
        command = [*self.prefix, *CLI, *arguments]
        done = subprocess.run(command, env={**self.env, **extra}, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"greenboost {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout


@contextlib.contextmanager
def line(round_trip_us):
    """A delay link from here to a namespace of its own. returns: the process that holds it, the address there."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    delaylink = None
    try:
        wait(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "the namespace")
        ends = ["--a", str(os.getpid()), "--b", str(holder.pid), "--name", "gbd0"]
        program = [BUILD / "test" / "net" / "delaylink", *ends, "delay", f"{round_trip_us / 2}us", "spin", "1ms"]
        delaylink = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if delaylink.stdout.readline().strip() != "ready":
            raise RuntimeError("the delay link does not start")
        subprocess.run(["ip", "addr", "add", "10.77.1.1/24", "dev", "gbd0"], check=True)
        inside = ["nsenter", "-t", str(holder.pid), "--net", "--"]
        subprocess.run([*inside, "ip", "addr", "add", "10.77.1.2/24", "dev", "gbd0"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        yield holder.pid, "10.77.1.2"
    finally:
        if delaylink is not None:
            delaylink.stdin.close()
            delaylink.wait(10)
        holder.kill()
        holder.wait()


def wait(condition, what, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


@contextlib.contextmanager
def pair(vram, lent, round_trip_us=None):
    """The host, connected to a feeder that lends so much VRAM; by loopback without a round trip."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        holder, address = None, "127.0.0.1"
        if round_trip_us is not None:
            holder, address = stack.enter_context(line(round_trip_us))
        feeder = Machine(os.path.join(folder, "feeder"), holder, **simulated("feeder", vram))
        host = Machine(os.path.join(folder, "host"), **simulated("host", vram))
        for one, stop in ((feeder, ("feed", "stop", "--grace", "0")), (host, ("agent", "stop", "--force"))):
            stack.callback(subprocess.run, [*one.prefix, *CLI, *stop], env=one.env, capture_output=True, timeout=60)
        lends = ("--gpu", "sim", "--vram", f"0={lent}", "--ram", "0")
        feeder.call("feed", "start", "--port", PORT, "--bind", address, *lends)
        key = feeder.call("key", "show").strip().splitlines()[-1]
        host.call("connect", f"{address}:{PORT}", GREENBOOST_KEY=key)
        yield host
