"""Every kind of report in every form: the same fields in the same order."""

import copy
import dataclasses
import json
import math
import pickle
import re
import sys
import xml.etree.ElementTree

import keras
import markdown_it
import pytest

from keras_svag import SVAGAdam
from keras_svag.noise.series import NoiseSeries
from keras_svag.optimizers.svag import SVAG
from keras_svag.reporting.blocks import WIDTH
from keras_svag.scaling.closeness import EquilibriumStatistics, c_closeness
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.prediction import predict_closeness
from tests.helpers.noise_runs import BATCH_SIZE, RATE, SGD, branch, report, run

WICKED = "<script>alert('x')</script> & \"co\" | *b* [a](http://b) `c` _d_"


def layered():
    names = (WICKED, *(f"block_{i}/dense/kernel" for i in range(11)), "b")
    series = NoiseSeries(sampling="independent")
    row = {"epoch": 1, "learning_rate": RATE, "rows": BATCH_SIZE}
    row |= {"weight_sq_norm": 1.0, "example_noise": 30.0 * BATCH_SIZE}
    for step in range(1, 41):
        g = 1.0 + (step % 3)
        moments = {name: (g, 10.0 * i) for i, name in enumerate(names)}
        if step > 20:
            moments["late"] = (g, 5.0)
        series.append(moments, step=step, grad_sq_norm=g, **row)
    return report(series)


def equilibrium(*means, se=0.1):
    return EquilibriumStatistics(*means, se, se, se, 3)


FIRST, SECOND = equilibrium(20.0, 1.0, 5.0), equilibrium(21.0, 1.2, 2.4)
UNKNOWN = equilibrium(21.0, 1.2, 2.4, se=math.nan)
DOUBTS = {"scale_invariant": None, "other_reasons": ("clipped", WICKED)}
DOUBTFUL = dataclasses.replace(SGD, momentum=0.9, **DOUBTS)
SVAG_SGD = dataclasses.replace(SGD, optimizer=kind_of(SVAG), ell=4)
REFUSED = conditions_of(keras.optimizers.Adam(), "linear")
ADAM_W = keras.optimizers.AdamW(weight_decay=0.1)
MOVED = ({"n": 10.0},) * 8 + ({"n": 90.0, "rate": 0.08},) * 2 + ({"rate": 0.1},)


def adaptive(optimizer, count):
    epoch = {"count": count, "preconditioned": (2.0, 12.0)}
    return report(run(epoch), conditions_of(optimizer), preconditioned=True)


REPORTS = {
    "verdict": report(run({"count": 400}, {"count": 400}), window=2),
    "refusal": report(run({}), REFUSED),
    "heuristic": report(run({}, {"rate": 0.3}), DOUBTFUL),
    "undetermined": report(run({"g_spread": 2.0, "n": 1.0})),
    "infinite end": report(run({"g_spread": 5.0})),
    "nothing measured": report(run({"count": 1})),
    "negative signal": report(run({"g": -1.0})),
    "fewer examples": report(run({"n": 0.3, "g_spread": 0.1})),
    "per layer": layered(),
    "adaptive": adaptive(ADAM_W, 300),
    "adaptive SVAG": adaptive(SVAGAdam(ell=4), 40),
    "SVAG": report(run({"n": 3.21}), SVAG_SGD),
    "stretches": report(run(*MOVED)),
    "steps": report(run({"count": 20000}), window_steps=1000),
    "branches": dataclasses.replace(
        report(run({"n": 10.0})),
        branches=(branch(0.5), branch(2), branch(16, math.nan)),
        prediction=predict_closeness({1: FIRST, 2: SECOND}),
    ),
}
# All that is public besides reports: finite, infinite, NaN, None.
RESULTS = {
    "series": run({"count": 9}, {"rate": math.nan}),
    "statistics": FIRST,
    "unknown statistics": UNKNOWN,
    "closeness": c_closeness(FIRST, SECOND, 2.0),
    "without end": c_closeness(FIRST, equilibrium(20.0, 0.01, 5.0)),
    "without signal": c_closeness(FIRST, equilibrium(20.0, -1.0, 5.0)),
    "without errors": c_closeness(FIRST, UNKNOWN),
    "infinite ratio": c_closeness(equilibrium(20.0, 0.0, 5.0, se=0.0), FIRST),
    "branch": branch(4),
    "branch that diverges": branch(4, math.nan),
    "prediction": predict_closeness({1: FIRST, 2: SECOND}),
    "prediction without errors": predict_closeness(
        {1: FIRST, 2: UNKNOWN, 4.5: SECOND}
    ),
}


# And what they hold.
EVERY = dict(RESULTS)
for name, one in REPORTS.items():
    EVERY[name] = one
    EVERY[f"{name}: verdict"] = one.verdict
    EVERY[f"{name}: conditions"] = one.verdict.conditions
    EVERY[f"{name}: estimate"] = one.estimate
    EVERY[f"{name}: at 200"] = one.at(200, level=0.9, closeness=3)


def parsed(html):
    # Strict: what is not escaped or not closed is no XML.
    return xml.etree.ElementTree.fromstring(html)


def fields(root):
    """The texts of paragraphs, cells and items, in their order."""
    found = []
    for element in root.iter():
        if element.tag == "figure":
            element.clear()
        elif element.tag in ("p", "th", "td", "li"):
            found.append(" ".join("".join(element.itertext()).split()))
    return found


@pytest.mark.parametrize("kind", REPORTS)
def test_all_forms_have_the_same_fields(kind):
    one = REPORTS[kind]
    in_html = fields(parsed(one._repr_html_()))
    reader = markdown_it.MarkdownIt().enable("table")
    markdown = reader.render(one._repr_markdown_())
    assert fields(parsed(f"<div>{markdown}</div>")) == in_html
    bare = re.sub(r"^  - ", "", str(one), flags=re.MULTILINE)
    assert "".join(bare.split()) == "".join("".join(in_html).split())
    assert in_html[0] == one.verdict.headline
    assert one.verdict.headline in repr(one) and "\n" not in repr(one)
    for line in str(one).splitlines():
        assert len(line) <= WIDTH or WICKED in line, line
    assert "safe" not in str(one).lower()


def test_every_result_is_what_it_was_before():
    for name, one in EVERY.items():
        saved = json.loads(json.dumps(one.to_dict(), allow_nan=False))
        for restored in (
            type(one).from_dict(saved),
            pickle.loads(pickle.dumps(one)),
            copy.deepcopy(one),
        ):
            assert restored == one, name
            assert (repr(restored), str(restored)) == (repr(one), str(one))
            assert restored.to_dict() == one.to_dict(), name
        for key, other in EVERY.items():
            assert key == name or other != one, (name, key)


def test_what_no_result_saved_is_refused_in_a_sentence():
    for name in [*RESULTS, "verdict", "verdict: at 200"]:
        kind, saved = type(EVERY[name]), EVERY[name].to_dict()
        damaged = [None, [], {}, 3, "text"]
        if name in RESULTS:  # The others hold more than they are made of.
            damaged += [{k: saved[k] for k in saved if k != x} for x in saved]
        for one in damaged:
            says = f"^`saved` must be what {kind.__name__}.to_dict"
            with pytest.raises(ValueError, match=says):
                kind.from_dict(one)


@pytest.mark.parametrize("kind", REPORTS)
def test_frame_has_a_row_for_each_kappa_of_each_stretch(kind):
    one = REPORTS[kind]
    frame = one.to_frame()
    assert len(frame) == 6 * len(one.stretches)
    last = frame[-6:]
    assert list(last["kappa"]) == [0.25, 0.5, 2, 4, 8, 16]
    runs = one.verdict.runs.values()
    assert list(last["verdict"]) == [str(run.verdict) for run in runs]
    lows = [run.min_closeness.low for run in runs]
    assert list(last["min_closeness_low"]) == lows
    if kind == "stretches":
        assert list(frame["first_epoch"][::6]) == [7, 9, 11]
        rates = pytest.approx([0.2, 0.02, 0.025])
        assert list(frame["learning_rate"][::6]) == rates
    if kind == "adaptive":
        assert frame["beta_1"][3] == pytest.approx(1 - 4 * 0.1)
        # κ (1 - β) is not below 1.
        assert math.isnan(frame["beta_1"][5])


def test_page_is_one_file_with_its_picture(tmp_path, monkeypatch):
    one = REPORTS["verdict"]
    one.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    root = parsed(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}svg"))) == 1
    (title,) = root.iter("title")
    assert title.text == one.verdict.headline
    assert one._repr_html_() in page
    # Nothing is fetched from elsewhere.
    assert not re.search(r'(src|href)="http', page)
    # Without matplotlib there is no picture.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = one._repr_html_()
    assert "<svg" not in html
    assert fields(parsed(html))[0] == one.verdict.headline
