import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.sweep.runner import start_tied
from tests.helpers.paths import ROOT

PARENT = """
import sys, time
from experiments.sweep.runner import start_tied

child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
start_tied([sys.executable, "-c", child], {log!r})
time.sleep(60)
"""


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


def test_the_program_has_its_arguments_and_its_exit_code(tmp_path):
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    log = tmp_path / "log"
    process = start_tied([sys.executable, "-c", code, "-a", "b c"], str(log))
    assert process.wait() == 7
    assert log.read_text() == "['-a', 'b c']\n"


def test_the_process_is_the_program_and_ends_as_it_is_told_to(tmp_path):
    log = tmp_path / "log"
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = start_tied([sys.executable, "-c", code], str(log))
    wait_for(lambda: log.read_text().endswith("\n"))
    assert int(log.read_text()) == process.pid
    process.terminate()
    assert process.wait() == -signal.SIGTERM
