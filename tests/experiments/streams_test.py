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


def run(script, path="", redirection=""):
    """Runs a script; returns what it prints to stdout and to stderr."""
    command = f'"$0" -c "$1" "$2" {redirection}'
    process = subprocess.run(
        ["sh", "-c", command, sys.executable, script, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return process.stdout.decode(), process.stderr.decode()


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
    output, errors = run(SCRIPT, tmp_path / "done", redirection)
    assert (tmp_path / "done").read_text() == "done", errors
    assert "Error" not in errors
    if not redirection:
        assert sorted(output.split("\n")) == sorted(
            ["", *["∇L", "from a child"] * 3]
        )
        assert errors == "a word\n" * 3


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


def test_what_would_act_on_a_reader_is_shown_as_escapes():
    output, errors = run(SAYS)
    shown = STEERING.encode("unicode_escape").decode()
    assert output == f"a\tname {shown}\n\r\x1b[Ka bar {shown}\r100%\n"
    warning, *_, last, _ = errors.split("\n")
    assert warning.endswith(f"UserWarning: {shown}")
    assert last == f"it is {shown}"
