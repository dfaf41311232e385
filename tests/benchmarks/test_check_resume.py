"""Two real kills of the real program, resumed; the full check is `benchmarks.check_resume`."""

import pytest

from benchmarks.check_resume import check, write_miniature
from zoomiqa_core.data.benchmarks.sets import read_benchmark


def test_the_miniature_is_a_dataset_with_two_faults(tmp_path):
    images = read_benchmark("biq2021", write_miniature(tmp_path, 8, 32), "test")
    assert len(images) == 8
    assert [image.path.exists() for image in images].count(False) == 1
    assert images[0].mos > images[-1].mos


@pytest.mark.slow
def test_killed_runs_end_like_the_unbroken_one(tmp_path):
    trials = check(tmp_path, kills=2, seed=0, images=12)
    assert [trial.good for trial in trials] == [True, True], trials
