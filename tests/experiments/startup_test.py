"""What TensorFlow, or a stand-in, writes to stderr while it starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

# As TensorFlow 2.18 and 2.21 write them on a machine without a GPU.
KNOWN = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795743834.597043    7238 port.cc:153] oneDNN custom operations are on. You may see
I0000 00:00:1795743834.597354    7238 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.
2026-11-27 01:52:40.247599: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:477] Unable to register cuFFT factory: Attempting
E0000 00:00:1795744360.700322   20481 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting
E0000 00:00:1795744360.792850   20481 cuda_blas.cc:1418] Unable to register cuBLAS factory: Attempting
E0000 00:00:1795743845.044589    7238 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)
"""  # noqa: E501
OTHER = """\
E0000 00:00:1795743845.044589    7238 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
F0000 00:00:1795743845.044589    7238 port.cc:100] The TensorFlow library was compiled to use AVX instructions
a line that is not TensorFlow's: Could not find cuda drivers on your machine
\xff
"""  # noqa: E501

SCRIPT = """
import os
from experiments.process.interruption import end_on_signals
from experiments.process.startup import start_tensorflow
end_on_signals()
before = os.fstat(2)
start_tensorflow()
assert os.path.samestat(os.fstat(2), before)
os.write(2, b"after the start")
"""
TENSORFLOW = f"""
import os, signal, time
class config:
    list_physical_devices = lambda: os.write(2, {KNOWN!r}.encode())
os.write(2, {(KNOWN + OTHER + KNOWN)!r}.encode("latin-1"))
"""


@pytest.fixture
def start(tmp_path):
    def start(code="", **environment):
        (tmp_path / "tensorflow.py").write_text(TENSORFLOW + code)
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, **environment}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return start


def end(process):
    _, errors = process.communicate(timeout=60)
    return errors.decode("latin-1"), process.returncode


def test_the_known_lines_alone_are_left_out(start):
    assert end(start()) == (f"{OTHER}after the start", 0)


def test_a_user_can_have_them(start):
    errors, _ = end(start(TF_CPP_MIN_LOG_LEVEL="0"))
    assert errors == f"{KNOWN}{OTHER}{KNOWN}{KNOWN}after the start"


def test_an_import_that_fails_is_seen(start):
    errors, code = end(start("raise ImportError('no libtensorflow')"))
    assert errors.startswith(f"{OTHER}Traceback")
    assert errors.endswith("ImportError: no libtensorflow\n")
    assert code == 1


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
def test_an_import_that_kills_the_process_is_seen(start, number):
    code = f"os.write(2, b'half a line'); os.kill(os.getpid(), {number})"
    assert end(start(code)) == (f"{OTHER}half a line", -number)


def test_a_signal_that_all_processes_are_sent_is_seen(start, tmp_path):
    begun = tmp_path / "begun"
    process = start(f"open({str(begun)!r}, 'w'); time.sleep(60)")
    while not begun.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    errors, code = end(process)
    sentence = "-c: interrupted by SIGTERM: the same command goes on.\n"
    assert (errors, code) == (OTHER + sentence, 143)


def test_what_holds_stderr_open_keeps_no_one_waiting(start):
    process = start("import subprocess; subprocess.Popen(['sleep', '60'])")
    assert process.wait(timeout=30) == 0
    os.killpg(process.pid, signal.SIGTERM)
    errors, _ = end(process)
    assert errors == f"{OTHER}after the start"


def test_a_report_writes_its_own_sentence_alone(tmp_path):
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    process = subprocess.run(
        [sys.executable, "-m", "experiments.report", tmp_path],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    (line,) = process.stderr.splitlines()
    assert line.startswith("experiments.report: ")


def test_a_closed_stderr_is_no_error(start, tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "class config:\n    list_physical_devices = lambda: None"
    )
    script = (
        "from experiments.process.startup import start_tensorflow as s; s()"
    )
    command = f'exec "{sys.executable}" -c "{script}" 2>&-'
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert subprocess.call(["sh", "-c", command], env=environment) == 0
