"""What a process does when it is told to end: at once, or once it has saved.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone), SIGUSR1 and SIGUSR2
(a warning of Slurm's time limit, by custom and by submitit) do the same.

No exception carries a signal: an import or a callback of C may swallow one. A
thread hears of every signal, also while the main thread is in a long call.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them.
]

# Signals that come together are one: `timeout` sends two, and systemd and Slurm
# tell the runs of a sweep, whom the sweep tells too.
_TOGETHER_SECONDS = 1.0

# TensorFlow takes SIGTERM for itself, to no effect, when workers wait for one
# another; the main thread, which alone has `signal.signal`, waits there too.
_TAKE_BACK_SECONDS = 0.5
_get_handler = ctypes.pythonapi.PyOS_getsig
_get_handler.argtypes = [ctypes.c_int]
_set_handler = ctypes.pythonapi.PyOS_setsig
_set_handler.argtypes = [ctypes.c_int, ctypes.c_void_p]
_get_handler.restype = _set_handler.restype = ctypes.c_void_p


def exit_code(number):
    """That of a process which a signal has ended: 130 for SIGINT, else 143."""
    return 128 + (number if number == signal.SIGINT else signal.SIGTERM)


def end_on_signals():
    """From now on a signal ends the process with a sentence and its exit code.

    Call it in the main thread, before imports that take long. A signal that the
    process was started to ignore, as by `nohup`, stays ignored; but not SIGINT,
    which a shell's script lets every process in its background ignore.
    """
    _listener.start()


class Interruption(contextlib.AbstractContextManager):
    """Context in which signals are noted instead of obeyed.

    A second signal ends the process at once. In another than the main thread
    nothing is noted.

    Args:
        notes: False has them obeyed as outside the context.

    Attributes:
        signal: number of the signal that came, or None.
    """

    def __init__(self, notes=True):
        self.signal = None
        self._notes = notes
        self._was_listening = True
        self._has_come = threading.Event()

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            self._notes = False
        if self._notes:
            self._was_listening = _listener.is_listening
            _listener.start()
            _listener.noting = self
        return self

    def __exit__(self, *exception):
        if self._notes:
            if self._was_listening:
                _listener.noting = None
            else:
                _listener.stop()

    def wait(self, seconds):
        """Waits so long, or until a signal comes."""
        self._has_come.wait(seconds)

    def come(self):
        """Ends a `wait`."""
        self._has_come.set()


class _Listener:
    def __init__(self):
        self.is_listening = False
        self.noting = None
        self.is_noted = False
        self.heard_at = None
        self._previous = {}

    def start(self):
        if not self.is_listening:
            self.is_listening = True
            ours, self._theirs = socket.socketpair()
            self._theirs.setblocking(False)
            self._previous_fd = signal.set_wakeup_fd(
                self._theirs.fileno(), warn_on_full_buffer=False
            )
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler != signal.SIG_IGN or number == signal.SIGINT:
                    self._previous[number] = signal.signal(number, self._note)
            self._handler = _get_handler(signal.SIGINT)
            self._thread = threading.Thread(
                target=self._listen, args=(ours,), daemon=True
            )
            self._thread.start()

    def stop(self):
        signal.set_wakeup_fd(self._previous_fd)
        self._theirs.close()
        self._thread.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.__init__()

    def _note(self, number, frame):
        # In the main thread, which sees it in the step that it came in.
        if self.noting is not None and self.noting.signal is None:
            self.noting.signal = number
            # The thread may hear of it only when the context is left.
            self.is_noted = True

    def _listen(self, ours):
        ours.settimeout(_TAKE_BACK_SECONDS)
        with ours:
            while True:
                try:
                    number = ours.recv(1)
                except TimeoutError:
                    self._take_back()
                    continue
                if not number:
                    return
                if number[0] in SIGNALS:
                    self._heard(signal.Signals(number[0]))

    def _take_back(self):
        for number in self._previous:
            if _get_handler(number) != self._handler:
                _set_handler(number, self._handler)

    def _heard(self, number):
        now = time.monotonic()
        if number.name == "SIGHUP":
            _leave_lost_terminal()
        if self.noting is not None:
            self.is_noted = True
            self.noting.come()
        if self.is_noted and self.heard_at is None:
            self.heard_at = now
        if not self.is_noted or now - self.heard_at > _TOGETHER_SECONDS:
            sentence = (
                f"{os.path.basename(sys.argv[0])}: interrupted by "
                f"{number.name}: the same command goes on.\n"
            )
            with contextlib.suppress(OSError):
                os.write(2, sentence.encode())
            # Whatever is half written is as after a kill.
            os._exit(exit_code(number))


def _leave_lost_terminal():
    """Has what is printed go nowhere if it cannot go to the terminal."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


_listener = _Listener()
