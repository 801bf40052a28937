import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments.process.interruption import Interruption
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

NAMES = "SIGINT SIGTERM SIGHUP SIGUSR1 SIGUSR2".split()
NUMBERS = [getattr(signal, name) for name in NAMES]
IMPORTS = """
import hashlib, signal
from experiments.process.interruption import Interruption, end_on_signals
"""
# Python hears of a signal when a call of C ends, as a step of TensorFlow does.
CALLS = "for _ in range(999): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**5)"


@pytest.fixture(autouse=True)
def no_nohup():
    """The tests may run where a lost terminal is to be ignored."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, handler)


def start(script):
    """Starts a script; returns its process when it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS + textwrap.dedent(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
    assert signal.getsignal(number) is before
    with Interruption(notes=False):
        assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_the_process_after_a_call(number):
    process = start(
        f"""
        # As in the background of a shell's script.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_on_signals()
        print(flush=True)
        {CALLS}
        """
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert errors.decode() == (
        f"-c: interrupted by {number.name}: the same command goes on.\n"
    )
    assert process.returncode == (130 if number == signal.SIGINT else 143)


def test_signals_together_are_one_and_a_later_one_ends_the_process():
    process = start(
        f"""
        # As nohup has it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        end_on_signals()
        Interruption().__enter__()
        print(flush=True)
        {CALLS}
        """
    )
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_a_lost_terminal_is_no_error(tmp_path):
    ours, theirs = os.openpty()
    saved = tmp_path / "saved"
    script = f"""
    import fcntl, termios, time
    from experiments.process.streams import protect_streams
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with Interruption() as interruption:
        print("ready", flush=True)
        while interruption.signal is None:
            time.sleep(0.1)
        protect_streams()
        print("a last word", flush=True)
    open({str(saved)!r}, "w").write(str(interruption.signal))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTS + textwrap.dedent(script)],
        cwd=ROOT,
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
    )
    os.close(theirs)
    while b"\n" not in os.read(ours, 10):
        pass
    os.close(ours)
    assert process.wait(timeout=20) == 0
    assert saved.read_text() == str(int(signal.SIGHUP))
