import contextlib
import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(Exception):
    """Training was told to stop, and its state is saved.

    Args:
        number: the signal's number.

    Attributes:
        exit_code: 128 + `number`: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interruption(contextlib.AbstractContextManager):
    """Context in which Ctrl-C and SIGTERM are noted instead of obeyed.

    Asked twice the process obeys as usual, at once.

    Args:
        notes: False leaves the signals as they are.

    Attributes:
        signal: number of the signal that came, or None.
    """

    def __init__(self, notes=True):
        self.signal = None
        self._notes = notes
        self._previous = {}

    def __enter__(self):
        # Only the main thread may handle signals.
        is_main = threading.current_thread() is threading.main_thread()
        if self._notes and is_main:
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        self._restore()

    def _note(self, number, frame):
        self.signal = number
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
