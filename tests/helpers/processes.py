"""Programs in processes of their own, as what TensorFlow does once needs it.

They are forked from one process that has imported TensorFlow but not used it,
which saves each of them the seconds of the imports.
"""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile
import time

from tests.helpers.paths import ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["experiments.build", "experiments.fit", "experiments.sweep.command"]
)


def own_lines(text):
    """What was written to stderr, without TensorFlow's log of its start."""
    return re.sub(r"^(WARNING: All log|[IE]\d{4} ).*\n", "", text, flags=re.M)


class Program:
    """A program that runs in the project's folder, much as `subprocess.Popen`.

    Args:
        name: a module, or a file of the project's folder.
        *arguments: those of its command line.
        **environment: variables that it gets beside this process's own.
    """

    def __init__(self, name, *arguments, **environment):
        self._folder = tempfile.TemporaryDirectory()
        self._process = _FORKS.Process(
            target=_run,
            args=(
                self._folder.name,
                name,
                [str(argument) for argument in arguments],
                {**os.environ, **environment},
            ),
            daemon=True,
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def wait(self, timeout=300):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def wait_until(self, condition, timeout=120):
        """Waits for something that the program does before it ends."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline and self.returncode is None
            time.sleep(0.001)

    def communicate(self, timeout=300):
        """Waits; returns what was written to stdout and to stderr."""
        try:
            self.wait(timeout)
        finally:
            self.kill()
        return self.printed(1), self.printed(2)

    def printed(self, descriptor=1):
        """What was written to stdout, or to stderr, which is 2, until now."""
        path = pathlib.Path(self._folder.name, str(descriptor))
        return own_lines(path.read_text()) if path.exists() else ""

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()


def _run(folder, name, arguments, environment):
    for descriptor in (1, 2):
        with open(os.path.join(folder, str(descriptor)), "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [name, *arguments]
    run = runpy.run_path if name.endswith(".py") else runpy.run_module
    try:
        run(name, run_name="__main__")
    finally:
        # The processes of `multiprocessing` leave them out.
        atexit._run_exitfuncs()
