import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
from experiments.process.streams import protect_streams
protect_streams()
import os, socket, sys
sys.stdin.read() if sys.stdin else None
for _ in range(3):
    print("\\u2207L", flush=True)
    print("a word", file=sys.stderr, flush=True)
    os.system("echo from a child")
descriptor = socket.socket().fileno()
assert descriptor > 2, descriptor
assert not sys.stdout.isatty()
with open(sys.argv[1], "w") as file:
    file.write("done")
"""


def run(redirection, path, script=SCRIPT, **environment):
    command = f'"$0" -c "$1" "$2" {redirection}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable, script, str(path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.parametrize(
    "redirection",
    [
        "",
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        "> /dev/full 2>&1",
        "2>&1 | head -1",
        "2>&1 | true",
    ],
)
def test_a_process_ends_whoever_listens(tmp_path, redirection):
    done = tmp_path / "done"
    process = run(redirection, done)
    assert process.returncode == 0, process.stderr
    assert done.read_text() == "done"
    assert b"Error" not in process.stderr
    if not redirection:
        lines = process.stdout.decode().splitlines()
        assert lines.count("∇L") == lines.count("from a child") == 3
        assert process.stderr.decode().splitlines() == ["a word"] * 3


STEERING = "\x1b[2J\x07\u202eevil\u2066\x85\r\udcff"
SAYS = f"""
import sys, warnings
from experiments.process.streams import protect_streams
protect_streams()
name = {STEERING!r}
print("a\\tname", name)
print("\\r\\x1b[Ka bar", name, end="")
print("\\r100%", flush=True)
warnings.warn(name)
sys.exit(f"it is {{name}}")
"""


def test_what_would_act_on_a_reader_is_shown_as_escapes(tmp_path):
    process = run("", tmp_path, SAYS, PYTHONIOENCODING="utf-8")
    shown = STEERING.encode("unicode_escape").decode()
    assert process.stdout.decode().split("\n") == [
        f"a\tname {shown}",
        f"\r\x1b[Ka bar {shown}\r100%",
        "",
    ]
    errors = process.stderr.decode().split("\n")
    assert errors[0].endswith(f"UserWarning: {shown}")
    assert errors[-2:] == [f"it is {shown}", ""]
