"""Two real kills of the fine-tuning; the full check is `benchmarks.check_finetune_resume`."""

import pytest

from benchmarks.check_finetune_resume import check


@pytest.mark.slow
def test_killed_runs_end_like_the_unbroken_one(tmp_path):
    trials = check(tmp_path, kills=2, seed=1, steps=4)
    assert [trial.same for trial in trials] == [True, True], trials
