# SPDX-License-Identifier: Apache-2.0
"""A real feeder daemon with folders of its own, for the tests."""
import json
import os
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLI = os.path.join(ROOT, 'build', 'js', 'tui', 'cli', 'main.js')


class Daemon:
    """`greenboost feed start` on loopback. Ownership: the caller stops it."""

    def __init__(self, ram='64MiB'):
        self.folder = tempfile.mkdtemp(prefix='greenboost-python-')
        self.env = {**os.environ, 'GREENBOOST_GPU': 'none', 'NO_COLOR': '1', 'NODE_OPTIONS': ''}
        for name in ('CONFIG', 'STATE', 'CACHE'):
            self.env[f'XDG_{name}_HOME'] = os.path.join(self.folder, name.lower())
        self.env['XDG_RUNTIME_DIR'] = os.path.join(self.folder, 'run')
        os.mkdir(self.env['XDG_RUNTIME_DIR'], 0o700)
        self.log = open(os.path.join(self.folder, 'log'), 'wb')
        arguments = ['feed', 'start', '--foreground', '--ram', ram, '--port', '0', '--bind', '127.0.0.1']
        self.process = subprocess.Popen(['node', CLI, *arguments], env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        try:
            self.port = self._wait()
            self.key = self.greenboost('key', 'show').strip().splitlines()[-1]
        except BaseException:
            self.stop()
            raise

    def _wait(self):
        until = time.monotonic() + 30
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return int(self.status()['addresses'][0].rsplit(':', 1)[1])
            except (subprocess.CalledProcessError, ValueError):
                time.sleep(0.1)
        with open(self.log.name, encoding='utf8') as log:
            raise RuntimeError(f'the feeder does not start: {log.read()[-2000:]}')

    def greenboost(self, *arguments):
        return subprocess.run(['node', CLI, *arguments], env=self.env, check=True, capture_output=True, text=True,
                              timeout=60).stdout

    def status(self):
        return json.loads(self.greenboost('feed', 'status', '--json'))

    def audit(self, event):
        lines = [json.loads(line) for line in self.greenboost('audit', '--json').splitlines()]
        return [line for line in lines if line['event'] == event]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
