"""Bad command lines of train.py: one sentence, exit code 1, nothing written."""

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.processes import Program

# Arguments beside --workdir, and what the sentence has to hold.
ROWS = [
    ("--config=nosuch.py", "--config must name", "'nosuch.py'"),
    ("--config=configs/paper.py:nosuch", "NAME", "svag-preresnet32-bn"),
    ("--strategy=nosuch", "--strategy=nosuch", "none|mirrored|multi_worker"),
    ("--strategy=multi_worker", "TF_CONFIG", "not set"),
    ("--virtual_devices=2", "--strategy=mirrored", "got 2"),
    ("--virtual_devices=0 --strategy=mirrored", "at least 1", "got 0"),
    ("--jobs=2", "--jobs=2", "--sweep"),
    ("--jobs=0 --sweep=ell=1", "--jobs must be at least 1", "got 0"),
    ("--shard=1/2", "--shard=1/2", "--sweep"),
    ("--shard=0/2 --sweep=ell=1", "counted from 1", "'0/2'"),
    ("--sweep=nosuch=1", "--sweep names 'nosuch'", "batch_size"),
    ("--checkpoint_every=1m", "`checkpoint_every` must be", "got '1m'"),
    ("--deterministic=maybe", "--deterministic=maybe", "oolean"),
    ("--config.elll=4", "no key 'elll'. Did you mean", "ell"),
    ("--config.model.depth=8", "the configuration has no key", "depth"),
    ("--config.epochs=0", "`epochs` must be an integer >= 1", "got 0"),
    ("--nosuch=1", "nosuch", "Unknown command line flag"),
    ("extra", "Unknown arguments", "'extra'"),
    ("--data_dir=/no --config=configs/cifar10.py", "prepared", "/no"),
    ("--workdir=/proc/no", "'/proc/no' cannot be written", "another"),
    ("--workdir=", "workdir", "directory"),
]


@pytest.mark.parametrize("arguments, first, second", ROWS)
def test_bad_command_line_is_one_sentence(
    arguments, first, second, monkeypatch
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    program = Program("train.py", "--workdir=unused", *arguments.split())
    _, errors = program.communicate()
    lines = errors.splitlines()
    # The flags' own errors are followed by a line on where to find help.
    assert len(lines) == 1 or lines[1].startswith("Pass --help"), lines
    assert first in lines[0] and second in lines[0], lines
    assert program.returncode == 1
    assert not (ROOT / "unused").exists()
