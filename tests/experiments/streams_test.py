import os
import subprocess
import sys

import pytest

from experiments.process.streams import check_arguments, visible
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
from experiments.process.streams import protect_streams
protect_streams()
import os, sys
for _ in range(3):
    print("\\u2207L", flush=True)
    print("a word", file=sys.stderr)
    os.system("echo from a child")
assert not sys.stdout.isatty()
with open(sys.argv[1], "w") as file:
    file.write("done")
os._exit(0)
"""


def run(path, redirection="", **environment):
    """Runs the script; returns what it prints to stdout and to stderr."""
    command = f'"$0" -c "$1" "$2" {redirection}'
    process = subprocess.run(
        ["sh", "-c", command, sys.executable, SCRIPT, str(path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    return process.stdout.decode(), process.stderr.decode()


@pytest.mark.parametrize(
    "redirection",
    ["> /dev/full 2>&1", "2>&1 | head -1", "2>&1 | true", ">&- 2>&-"],
)
def test_a_process_ends_whoever_listens(tmp_path, redirection):
    _, errors = run(tmp_path / "done", redirection)
    assert (tmp_path / "done").read_text() == "done", errors
    assert "Error" not in errors


@pytest.mark.parametrize(
    "encoding, unbuffered, shown",
    [("utf-8", "", "∇L"), ("ascii", "1", "\\u2207L")],
)
def test_what_is_printed_is_heard(tmp_path, encoding, unbuffered, shown):
    output, errors = run(
        tmp_path / "done",
        PYTHONIOENCODING=encoding,
        PYTHONUNBUFFERED=unbuffered,
    )
    lines = sorted(output.splitlines())
    assert lines == sorted([shown, "from a child"] * 3)
    assert errors == "a word\n" * 3


def test_what_would_act_on_a_reader_is_shown_as_escapes():
    steering = "\x1b[2J\x07\u202eevil\u2066\x85\r\udcff"
    shown = steering.encode("unicode_escape").decode()
    assert visible(f"a\tname {steering}\n") == f"a\tname {shown}\n"


def test_a_name_that_is_no_text_is_refused():
    check_arguments(["--workdir=é"])
    with pytest.raises(ValueError, match="--workdir=.udcff' is no text in the"):
        check_arguments(["--workdir=\udcff"])
