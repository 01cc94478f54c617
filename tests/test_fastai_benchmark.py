"""The benchmark beside fastai's Learner still runs, and its losses are equal."""

from __future__ import annotations

import re

import pytest

from tests.interop.fastai_data import import_fastai


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    import_fastai()
    from benchmarks.fastai_learner import main

    main(["--smoke"])
    shown = capsys.readouterr().out
    losses = re.findall(r"loss of fastai ([\d.]+), ours ([\d.]+)", shown)
    assert len(losses) == 2
    for theirs, ours in losses:
        assert float(ours) == pytest.approx(float(theirs), abs=1e-3)
    assert re.search(r"ratio [\d.]+ \(", shown)
