"""TensorFlow's start, without what it says there on every machine."""

import contextlib
import os
import signal
import subprocess
import sys

# What follows the name of a source file of TensorFlow's. Error 303 says that
# there is no driver; other failures of cuInit are shown.
_SAID = (
    r"oneDNN custom operations are on\.",
    r"Could not find cuda drivers on your machine",
    r"Unable to register cu(FFT|DNN|BLAS) factory: ",
    r"failed call to cuInit: .*UNKNOWN ERROR \(303\)",
)
_HIDDEN = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are "
    rf"|[^\]]*\.cc:\d+\] ({'|'.join(_SAID)})"
)

_FILTER = """
import re, sys
hidden = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not hidden.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
_LONGEST_WAIT = 2  # seconds


def start_tensorflow():
    """Imports TensorFlow and has it look for its devices.

    The lines that it writes to stderr meanwhile, which no variable of the
    environment hides, are left out; a user who sets `TF_CPP_MIN_LOG_LEVEL` to
    0 or 1 sees them. Call it before other imports import TensorFlow.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_known_lines() if level > "1" else contextlib.nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _without_known_lines():
    """Leaves the known lines, and nothing else, out of stderr.

    A process of its own passes on what is written meanwhile, so that nothing
    is lost however this one ends.
    """
    if sys.stderr is None or not hasattr(signal, "pthread_sigmask"):
        yield  # On Windows they are shown.
        return
    stderr = os.dup(2)
    # It ends with what it reads, not by a signal that all processes are sent.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        reader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILTER, _HIDDEN],
            stdin=subprocess.PIPE,
            stdout=stderr,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        # A process that was started meanwhile may still write to it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(_LONGEST_WAIT)
