"""Files from elsewhere: nothing in them is run, nothing in them is markup."""

import ast
import dataclasses
import html
import re

import keras
import numpy as np
import pytest
from markdown_it import MarkdownIt

from docs import architecture
from experiments.report.writing import write_report
from keras_svag import SVAG, ScalingReport, SVAGModel
from keras_svag.reporting.markdown import escaped
from keras_svag.scaling import scaling_verdict
from tests.helpers.paths import ROOT
from tests.helpers.small_problems import regression
from tests.helpers.synthetic_runs import estimate, write_run

# Modules whose reading runs code, and calls that do; `re.compile` and a model's
# `compile` are others than Python's own.
RUNS_CODE = re.compile(
    r"(import|from) (pickle|marshal|shelve|dill|cloudpickle|joblib)\b"
    r"|(?<![.\w])(?<!def )(eval|exec|compile|__import__)\("
    r"|yaml\.load\(|os\.(system|popen)\(|enable_unsafe_deserialization"
    r"|safe_mode=(?!True)|(allow_pickle|shell)=(?!False)"
)
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a | b",
    "`code`",
    "[x](javascript:alert(1))",
    "![x](http://example.com/x.png)",
    "line\n# heading\n\n| row |",
    "http://example.com",
    "www.example.com",
    "someone@example.com",
    "&lt;b&gt;",
    "**bold** _it_ ~~no~~ $x$",
    "<!-- comment",
    "</td></table>",
    "\\`\\<b>",
)
# What moves a terminal's cursor, colours it or turns its direction.
STEERING = (
    "\x1b[2J\x1b[31mred",
    "a\x08\x07\x7f",
    "\x9b31m",
    "\u202eevil\u2066",
    "\udcff",
)


def test_nothing_that_is_read_is_run():
    configs = (ROOT / "configs").glob("*.py")
    for source in (*architecture.sources(), *configs):
        # As it is parsed: without comments, each call on a line.
        code = ast.unparse(ast.parse(source.read_text()))
        assert not RUNS_CODE.search(code), source.name
    for code in (
        "import pickle",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path, safe_mode=False)",
    ):
        assert RUNS_CODE.search(code)


def test_code_in_a_wrapped_model_is_refused(tmp_path):
    marker = tmp_path / "marker"
    inputs = keras.Input((4,))
    name = str(marker)
    write = keras.layers.Lambda(lambda x: (open(name, "w").write("ran"), x)[1])
    outputs = keras.layers.Dense(2)(write(inputs))
    model = SVAGModel(keras.Model(inputs, outputs))
    model.compile(SVAG(0.1), "mse")
    model.fit(*regression(8), batch_size=8, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    marker.unlink()
    config = keras.saving.serialize_keras_object(model)
    for load in (
        lambda: keras.saving.load_model(path),
        lambda: keras.saving.deserialize_keras_object(config),
        lambda: SVAGModel.from_config(model.get_config()),
    ):
        with pytest.raises(ValueError, match="unsafe"):
            load()
    assert not marker.exists()
    # Who trusts a file says so, as Keras has it.
    keras.saving.load_model(path, safe_mode=False)(np.zeros((2, 4), "float32"))
    assert marker.exists()


def rendered(text):
    """HTML as a reader that passes HTML through makes it."""
    reader = MarkdownIt("gfm-like", {"linkify": False})
    return reader.enable("table").render(text)


def test_hostile_text_is_one_paragraph_of_text():
    for name in HOSTILE:
        shown = rendered(escaped(name))
        assert {*re.findall(r"</?[a-z!][^\s>/]*", shown)} == {"<p", "</p"}
        shown = html.unescape(re.sub(r"<[^>]*>", "", shown))
        assert shown.split() == name.split()
    # What needs no escape has none.
    assert [escaped("ell=1,seed=0"), escaped(0.05)] == ["ell=1,seed=0", "0.05"]


def layers_report(name):
    """A report of two layers, one of them with a name of the test's choice."""
    noise = estimate(1.0, 3.0)
    layers = {name: noise, "kernel": estimate(1.0, 2.0)}
    whole = dataclasses.replace(noise, per_layer=layers)
    verdict = scaling_verdict(whole, keras.optimizers.SGD(0.1), kappas=())
    return ScalingReport(verdict, 1, 1, 1.0)


def reported(folder, name):
    """The report on two runs that have hostile names, keys and values."""
    for ell in (1, 2):
        write_run(
            folder / f"{ell}{name.replace('/', '_')}",
            noise=estimate(0.3, 1.5),
            reasons=(name,),
            ell=ell,
            **dict.fromkeys(("pairing", "schedule", name), name),
        )
    with open(write_report(str(folder)), encoding="utf-8") as file:
        return file.read()


def test_names_are_shown_as_text_and_do_not_act_on_who_reads_them(tmp_path):
    name = "".join([*(HOSTILE[part] for part in (0, 2, 6)), *STEERING])
    page = reported(tmp_path / "hostile", name)
    hostile, harmless = map(
        rendered, (page, reported(tmp_path / "harmless", "x"))
    )
    # Folders have names of their own lengths, figures their own files.
    outline = re.compile(r"<(?:/?[a-z]+\d?)")
    assert outline.findall(hostile) == outline.findall(harmless)
    links = re.findall(r'(?:src|href)="([^"]*)"', hostile)
    assert all(link.startswith("figures/svag-1-") for link in links)
    one = layers_report("".join(STEERING))
    for text in (page, str(one), one._repr_html_(), one._repr_markdown_()):
        assert all(map(str.isprintable, text.split("\n")))
        for part in STEERING:
            escape = part.encode("unicode_escape").decode().split("[")[0]
            assert escape in text.replace("\\\\", "\\")
