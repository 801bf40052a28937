import os
import signal
import threading

import pytest

from experiments.fit import Interruption, TrainingInterrupted


def raise_signal(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.signal is None
        raise_signal(number)
        assert interruption.signal == number
    assert signal.getsignal(number) is before


def test_the_second_one_interrupts_at_once():
    with Interruption() as interruption:
        raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            raise_signal(signal.SIGINT)
    assert interruption.signal == signal.SIGINT


def test_handlers_are_left_alone_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter():
        with Interruption() as interruption:
            seen.append(signal.getsignal(signal.SIGTERM))
            seen.append(interruption.signal)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before, None]


def test_signals_can_be_left_as_they_are():
    with Interruption(notes=False):
        with pytest.raises(KeyboardInterrupt):
            raise_signal(signal.SIGINT)


def test_exit_codes_are_those_of_the_shell():
    assert TrainingInterrupted(signal.SIGINT).exit_code == 130
    assert TrainingInterrupted(signal.SIGTERM).exit_code == 143
    assert "SIGTERM" in str(TrainingInterrupted(signal.SIGTERM))
