"""What a process does when it is told to end: at once, or once it has saved.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone), SIGUSR1 and SIGUSR2
(Slurm's warning of its time limit) do the same. The handler keeps the signal's
number, which is looked at between steps: an exception could be swallowed by an
import or a callback of C.
"""

import contextlib
import os
import signal
import sys
import time

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# `timeout` sends two signals at a time, and Slurm tells the runs of a sweep,
# whom the sweep tells too.
_TOGETHER_SECONDS = 1.0


def exit_code(number):
    """That of a process which a signal has ended: 130 for SIGINT, else 143."""
    return 128 + (number if number == signal.SIGINT else signal.SIGTERM)


def end_on_signals():
    """From now on a signal ends the process with a sentence and its exit code.

    A signal that the process was started to ignore, as by `nohup`, stays
    ignored; but not SIGINT, which a shell ignores for all in its background.
    """
    _handle_signals(_end)


class Interruption(contextlib.AbstractContextManager):
    """Notes the first signal as `signal`, its number; a later one ends all.

    With `notes=False` the system ends the process, also in a long call.
    """

    def __init__(self, notes=True):
        self.signal = None
        self._handler = self._note if notes else signal.SIG_DFL

    def __enter__(self):
        self._before = _handle_signals(self._handler)
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._noted_at = number, now
        elif now - self._noted_at > _TOGETHER_SECONDS:
            _end(number, frame)


def _handle_signals(handler):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] != signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, handler)
    return before


def _end(number, frame):
    program, name = os.path.basename(sys.argv[0]), signal.Signals(number).name
    sentence = f"{program}: interrupted by {name}: the same command goes on.\n"
    with contextlib.suppress(OSError):
        os.write(2, sentence.encode())
    # Whatever is half written is as after a kill.
    os._exit(exit_code(number))
