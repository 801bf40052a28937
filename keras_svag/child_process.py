"""Processes that do not outlive the one that started them."""

import os
import subprocess
import sys

# Asks Linux for SIGTERM when the parent dies, however it dies, and becomes the
# program, which keeps that request. A `preexec_fn` would need no interpreter,
# but runs in a fork of a process with threads. The parent may be dead already.
_TIED = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
if os.getppid() != int(sys.argv[1]):
    os.kill(os.getpid(), signal.SIGTERM)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def start_tied(command, log_file):
    """Starts a process that is told to terminate when this one is gone.

    On Linux it gets SIGTERM even if this process is killed with SIGKILL;
    elsewhere it then goes on. Call it from a thread that outlives the process.
    Ctrl-C in a terminal does not reach it.

    Args:
        command: list of strings, the program and its arguments.
        log_file: path of the file that its output goes to.

    Returns:
        A `subprocess.Popen`.
    """
    if sys.platform == "linux":
        launcher = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        command = [*launcher, *command]
    with open(log_file, "w", encoding="utf-8") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
