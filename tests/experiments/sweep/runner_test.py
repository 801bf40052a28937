import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.sweep import runner
from experiments.sweep.runner import (
    Job,
    SweepRunner,
    duration,
    start_process,
)
from tests.helpers.paths import ROOT


class FakeProcess:
    """Ends when it was polled `polls` times."""

    def __init__(self, polls):
        self.polls, self.calls = polls, []

    def poll(self):
        self.polls -= 1
        return 0 if self.polls <= 0 else None

    def terminate(self):
        self.calls.append("terminate")

    def wait(self, timeout=None):
        self.calls.append("wait")
        return -signal.SIGTERM

    def kill(self):
        self.calls.append("kill")


class Starter:
    """Starts fakes, and remembers which ran at the same time."""

    def __init__(self, polls=2):
        self.polls = polls
        self.started, self.processes = [], []
        self.most_at_once = 0

    def __call__(self, job):
        self.started.append(job.name)
        self.processes.append(FakeProcess(self.polls))
        running = [p for p in self.processes if p.polls > 0]
        self.most_at_once = max(self.most_at_once, len(running))
        return self.processes[-1]


def job(name, **kwargs):
    return Job(name, f"{name}.log", ["true"], **kwargs)


def run(jobs, start, parallel=1):
    output = io.StringIO()
    runner = SweepRunner(jobs, parallel, start, output, poll_seconds=0)
    runner.run()
    return runner, output.getvalue()


@pytest.mark.parametrize("parallel", [1, 3])
def test_as_many_run_at_a_time_as_are_allowed(parallel):
    start = Starter(polls=5)
    runner, _ = run([job(name) for name in "abcde"], start, parallel)
    assert start.most_at_once == parallel
    assert start.started == [*"abcde"]
    assert runner.ended == dict.fromkeys("abcde", "finished")


def test_a_process_that_does_not_end_is_killed():
    class Stubborn(FakeProcess):
        def wait(self, timeout=None):
            super().wait()
            if timeout:
                raise subprocess.TimeoutExpired("x", 1)

    process = Stubborn(polls=99)

    def start(job):
        signal.raise_signal(signal.SIGTERM)
        return process

    run([job("a")], start)
    assert process.calls == ["terminate", "wait", "kill", "wait"]


def test_interrupted_processes_are_gone(tmp_path):
    log = tmp_path / "output.log"
    code = "import os; print(os.getpid(), flush=True)\n"
    code += "import time; time.sleep(60)"
    sleeper = Job("sleeper", str(log), [sys.executable, "-c", code])

    def interrupt():
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    runner = SweepRunner([sleeper], output=io.StringIO(), poll_seconds=0.02)
    previous = signal.getsignal(signal.SIGTERM)
    runner.run()
    assert runner.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is previous
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_one_line_of_progress():
    output = Terminal()
    jobs = [job("a", fraction_done=lambda started: 0.25), job("b")]
    SweepRunner(jobs, 1, Starter(), output, poll_seconds=0).run()
    assert "\r\x1b[K[0/2]  a 25%  " in output.getvalue()
    assert "\n[" not in output.getvalue()
    assert output.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("begins_at", "left"), [(0.5, "20 s"), (0.1, "3 s")])
def test_time_left_is_in_proportion_to_what_is_new(
    begins_at, left, monkeypatch
):
    # Done is 0.1 in 5 s, or 0.6; left is 0.4 of the run.
    fractions, seen = iter([0.5, begins_at, 0.6]), []

    def fraction_done(started):
        seen.append(next(fractions))
        return seen[-1]

    monkeypatch.setattr(runner.time, "time", lambda: 5.0 * (0.6 in seen))
    output = Terminal()
    resumed = job("a", fraction_done=fraction_done)
    SweepRunner([resumed], 1, Starter(), output, 0).run()
    assert f"a 60%  {left} left" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_569, "59 min"),
        (3_571, "1 h 00 min"),
        (7_500, "2 h 05 min"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


PARENT = """
import sys, time
from experiments.sweep.runner import Job, start_process

child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
start_process(Job("x", {log!r}, [sys.executable, "-c", child]))
time.sleep(60)
"""


def start(log, code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    return start_process(Job("x", str(log), command))


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody need have waited for it yet.
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it.")
def test_a_killed_parent_takes_its_child_along(tmp_path):
    log = tmp_path / "log"
    program = PARENT.format(log=str(log))
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not is_running(child))


def test_the_process_is_the_program_and_ends_as_it_is_told_to(tmp_path):
    log = tmp_path / "log"
    code = "import os, sys, time; print(os.getpid(), sys.argv[1:], flush=True)"
    process = start(log, f"{code}; time.sleep(60)", "-a", "b c")
    wait_for(lambda: log.read_text().endswith("\n"))
    assert log.read_text() == f"{process.pid} ['-a', 'b c']\n"
    process.terminate()
    assert process.wait() == -signal.SIGTERM
