import pytest
import tensorflow as tf

from experiments.report.figures import saved_figure
from experiments.report.writing import write_summaries


def test_events_that_are_missing_are_an_error(tmp_path, monkeypatch):
    picture = tmp_path / "picture.png"
    with saved_figure(picture, 1):
        pass
    pictures = {"report/picture": str(picture)}
    write_summaries(str(tmp_path / "whole"), "text", pictures)
    # As on a full disk: nothing is raised, nothing is written.
    monkeypatch.setattr(tf.summary, "image", lambda *args: False)
    with pytest.raises(OSError, match="not whole"):
        write_summaries(str(tmp_path / "lost"), "text", pictures)
