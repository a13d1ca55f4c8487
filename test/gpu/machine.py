# SPDX-License-Identifier: Apache-2.0
"""Feeder and host on one machine: the real command with folders of its own for each. Needs Node.js and `make js`."""
import contextlib
import json
import os
import subprocess
import tempfile

import common
from common import GIB

PORT = "9741"
CLI = ["node", str(common.BUILD / "js" / "tui" / "cli" / "main.js")]


class Machine:
    """Shares nothing with the other but the loopback interface."""

    def __init__(self, folder, **extra):
        self.env = {**os.environ, **extra}
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            path = os.path.join(folder, variable.lower())
            os.makedirs(path, mode=0o700)
            self.env[variable] = path

    def call(self, *arguments, timeout=60, **extra):
        done = subprocess.run(
            [*CLI, *arguments], env={**self.env, **extra}, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise RuntimeError(f"greenboost {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def feed_status(self):
        return json.loads(self.call("feed", "status", "--json"))

    def run(self, options, command, timeout=540):
        """`greenboost run`; the same result as common.run."""
        env = {**self.env, "GREENBOOST_CHECK_STATS": "1"}
        return common.run([*CLI, "run", *options, "--", *command], env, timeout=timeout)


@contextlib.contextmanager
def pair(*feed_options, feeder_environment=None):
    """A host connected to a feeder that lends what the options say; both are stopped in the end."""
    with tempfile.TemporaryDirectory() as folder:
        feeder = Machine(os.path.join(folder, "feeder"), **(feeder_environment or {}))
        host = Machine(os.path.join(folder, "host"), GREENBOOST_AGENT_RAM_BUDGET=str(16 * GIB))
        try:
            feeder.call("feed", "start", "--port", PORT, "--bind", "127.0.0.1", *feed_options)
            key = feeder.call("key", "show").strip().splitlines()[-1]
            print(host.call("connect", f"127.0.0.1:{PORT}", GREENBOOST_KEY=key), flush=True)
            yield host, feeder
        finally:
            for machine, stop in ((host, ("agent", "stop", "--force")), (feeder, ("feed", "stop", "--grace", "0"))):
                subprocess.run([*CLI, *stop], env=machine.env, capture_output=True, timeout=60)
