"""The releases that are tested are those that are promised."""

import configparser
import json
import re

from tests.helpers.paths import ROOT


def tox(section, key):
    file = configparser.ConfigParser(interpolation=None)
    file.read(ROOT / "tox.ini")
    return file[section][key]


def versions(part):
    """The versions of a part of the environments' names, oldest first."""
    lists = re.findall(rf"\b{part}\{{?([\d,]+)", tox("tox", "env_list"))
    named = {version for found in lists for version in found.split(",")}
    # `310` is 3.10.
    return [f"{v[0]}.{v[1:]}" for v in sorted(named, key=int)]


def test_tested_releases_are_those_that_are_promised():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    (pythons,) = re.findall(r"python: (\[.+\])", workflow)
    assert json.loads(pythons) == versions("py")
    setup = (ROOT / "setup.py").read_text()
    kerases = re.findall(r"keras==3\.(\d+)", tox("testenv", "deps"))
    assert f'python_requires=">={versions("py")[0]}"' in setup
    assert f'"tensorflow>={versions("tf")[0]}"' in setup
    assert f'"keras>=3.{min(map(int, kerases))}"' in setup
