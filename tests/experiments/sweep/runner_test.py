import io
import signal
import subprocess
import sys
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
    """Ends when it was polled `polls` times; does not when it is asked to."""

    def __init__(self, polls):
        self.polls, self.calls = polls, []

    def poll(self):
        self.polls -= 1
        return 0 if self.polls <= 0 else None

    def terminate(self):
        self.calls.append("terminate")

    def wait(self, timeout=None):
        self.calls.append("wait")
        if timeout:
            raise subprocess.TimeoutExpired("x", 1)

    def kill(self):
        self.calls.append("kill")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def job(name, **kwargs):
    return Job(name, f"{name}.log", ["true"], **kwargs)


def run(jobs, start=lambda job: FakeProcess(2), parallel=1):
    """Runs jobs as fake processes; returns the runner, and what it printed."""
    output = Terminal()
    runner = SweepRunner(jobs, parallel, start, output, poll_seconds=0)
    runner.run()
    return runner, output.getvalue()


@pytest.mark.parametrize("parallel", [1, 3])
def test_as_many_run_at_a_time_as_are_allowed(parallel):
    processes, at_once = {}, []

    def start(job):
        processes[job.name] = FakeProcess(5)
        at_once.append(sum(p.polls > 0 for p in processes.values()))
        return processes[job.name]

    runner, _ = run([job(name) for name in "abcde"], start, parallel)
    assert max(at_once) == parallel
    assert [*processes] == [*"abcde"]
    assert runner.ended == dict.fromkeys("abcde", "finished")


def test_what_has_ended_before_is_said_and_not_started():
    states = ("finished", "diverged", "elsewhere")
    jobs = [job(state, state=lambda state=state: state) for state in states]
    runner, output = run(jobs, start=None)
    assert runner.ended == {state: state for state in states}
    assert "1 of 3 runs are finished already." in output
    assert "1 of 3 runs have diverged before and are not run again." in output
    assert "elsewhere is run by another process." in output


def test_a_process_that_does_not_end_is_killed():
    process = FakeProcess(99)

    def start(job):
        signal.raise_signal(signal.SIGTERM)
        return process

    run([job("a")], start)
    assert process.calls == ["terminate", "wait", "kill", "wait"]


def test_a_terminal_has_one_line_of_progress():
    _, output = run([job("a", fraction_done=lambda started: 0.25), job("b")])
    assert "\r\x1b[K[0/2]  a 25%  " in output
    assert "\n[" not in output
    assert output.endswith("\r\x1b[K")


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
    _, output = run([job("a", fraction_done=fraction_done)])
    assert f"a 60%  {left} left" in output


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


# What the job's process does: it says what it is, and sleeps.
SLEEPER = "import os, sys, time; print(os.getpid(), sys.argv[1:], flush=True)\n"
SLEEPER += "time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path):
    command = [sys.executable, "-c", SLEEPER, "-a", "b c"]
    return Job("sleeper", str(tmp_path / "log"), command)


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pid_of(job):
    """What the job's process says, once it does."""
    with open(job.log_file, "a+") as log:
        wait_for(lambda: log.seek(0) or log.read().endswith("\n"))
        log.seek(0)
        pid, arguments = log.read().split(maxsplit=1)
    assert arguments == "['-a', 'b c']\n"
    return int(pid)


def test_the_process_is_the_program_and_ends_as_it_is_told_to(sleeper):
    process = start_process(sleeper)
    assert pid_of(sleeper) == process.pid
    process.terminate()
    assert process.wait() == -signal.SIGTERM


def is_running(pid):
    try:
        # Nobody need have waited for it yet.
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has it.")
def test_a_killed_parent_takes_its_child_along(sleeper):
    program = "import time; from experiments.sweep.runner import *; "
    program += f"start_process(Job('x', *{sleeper.log_file, sleeper.command}))"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{program}; time.sleep(60)"], cwd=ROOT
    )
    child = pid_of(sleeper)
    assert is_running(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_running(child))
