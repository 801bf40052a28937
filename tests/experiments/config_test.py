"""Files of configurations that cannot be used."""

import pytest

from experiments.config import load_config
from tests.helpers.refusals import check_sentence

GOOD = "from configs import digits\ndef get_config():\n    "
# What a file holds, and what the sentence does.
FILES = {
    "no get_config": ("x = 1\n", ["'get_config'"]),
    "none": ("def get_config():\n    pass\n", ["ConfigDict", "got None"]),
    "a dict": ("def get_config():\n    return {}\n", ["ConfigDict", "got {}"]),
    "a number": ("get_config = 5\n", ["TypeError"]),
    "syntax": ("x = 1\n\nget config\n", ["config.py, line 3:", "SyntaxError"]),
    "null byte": ("\0", ["null bytes"]),
    "missing import": ("\nimport nosuch\n", ["line 2", "nosuch"]),
    "missing attribute": (
        GOOD + "return digits.get_config().nosuch\n",
        ["line 3", "nosuch"],
    ),
    "its own error": (
        "def get_config():\n    raise ValueError('two\\nlines')\n",
        ["line 2", "two lines"],
    ),
    "an argument": ("def get_config(name):\n    pass\n", ["name"]),
    "missing key": (
        GOOD + "c = digits.get_config()\n    del c.lsr.window\n    return c\n",
        ["lacks `lsr.window`"],
    ),
    "no JSON": (
        GOOD + "c = digits.get_config()\n    c.model.x = {1j}\n    return c\n",
        ["`model.x`", "JSON", "got {1j}"],
    ),
}


@pytest.mark.parametrize("content, says", FILES.values(), ids=FILES.keys())
def test_a_file_without_a_configuration_is_one_sentence(
    tmp_path, content, says
):
    file = tmp_path / "config.py"
    file.write_text(content)
    with pytest.raises(ValueError) as refused:
        load_config(str(file))
    check_sentence(str(refused.value), str(file), *says)


def test_what_is_no_file_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nosuch.py", ""):
        with pytest.raises(ValueError) as refused:
            load_config(str(path))
        check_sentence(str(refused.value), "--config must name", str(path))


def test_what_follows_a_colon_is_given_to_the_file(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from configs import digits\n"
        "def get_config(ell):\n"
        "    config = digits.get_config()\n"
        "    config.ell = int(ell)\n"
        "    return config\n"
    )
    assert load_config(f"{file}:8").ell == 8
