"""Learning from reports of the best of N: the same crops, the stored ratings, refusals."""

from __future__ import annotations

import pytest
import torch

from restoration_guide.finetune.dpo import Dpo, DpoConfig
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.reports import ReportedPhotos
from restoration_guide.report.write import write_report
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core.images.sources import save_png


@pytest.fixture
def folders(stubs, tmp_path):
    """Two inputs and their reports: of three candidates, one darker than the other, and of two."""
    for number, count in ((0, 3), (1, 2)):
        photo = 0.2 + 0.6 * torch.rand(3, 40, 44, generator=torch.Generator().manual_seed(number))
        save_png(photo, tmp_path / "inputs" / f"{number}.png")
        script = [lambda image, _: image * 0.9, lambda image, _: image * 0.6, stubs.smooth]
        restorer = stubs.Restorer(script[:count])
        chosen = BestOfN(restorer, stubs.Scorer(std=0.2), n=count)(
            tmp_path / "inputs" / f"{number}.png", seed=0
        )
        write_report(chosen, tmp_path / "reports" / str(number))
    return tmp_path / "reports", tmp_path / "inputs"


def test_crops_of_input_and_candidates_agree(folders):
    photos = ReportedPhotos(*folders, min_side=16)
    assert [len(report.candidates) for report in photos.reports] == [3, 2]
    batch = photos.pick([0, 1], 16, generator=torch.Generator().manual_seed(0))
    made = batch.candidates
    assert made is not None and made.images.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(made.images[0, 0], batch.degraded[0] * 0.9, atol=4e-3, rtol=0)
    torch.testing.assert_close(made.images[1, 1], batch.degraded[1] * 0.6, atol=4e-3, rtol=0)
    assert made.reward[0].isfinite().all()
    assert made.reward[1].isfinite().tolist() == [True, True, False]
    # the darker one differs less from pixel to pixel, which this judge takes for quality
    assert float(made.reward[0, 1]) > float(made.reward[0, 0])


def test_the_reward_is_the_stored_lower_bound(folders):
    plain = ReportedPhotos(*folders, min_side=16, confidence=0.0).reports[0].ratings
    lower = ReportedPhotos(*folders, min_side=16, confidence=2.0).reports[0].ratings
    assert [a - b for a, b in zip(plain, lower, strict=True)] == pytest.approx([0.4] * 3)


def test_dpo_learns_from_them_without_making_or_rating(folders, own_pipe, tuned):
    def never(*_):
        raise AssertionError("nothing is rated")

    batch = ReportedPhotos(*folders, min_side=16).pick(
        [0, 1], 16, generator=torch.Generator().manual_seed(0)
    )
    step = Dpo(own_pipe, tuned, never, DpoConfig()).compute_loss(
        batch.to("cpu"), generator=torch.Generator().manual_seed(0)
    )
    assert len(step.losses) == 2 and step.skipped == 0
    grads = torch.autograd.grad(step.losses.sum(), tuned.parameters)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
    assert isinstance(batch, Batch) and batch.truth is None


def test_what_is_missing_is_named(folders, tmp_path):
    reports, inputs = folders
    with pytest.raises(ValueError, match=r"0\.png is 44 x 40 px, smaller than the crops of 48 px"):
        ReportedPhotos(reports, inputs, min_side=48)
    with pytest.raises(ValueError, match="a report with at least two rated candidates"):
        ReportedPhotos(inputs, inputs, min_side=16)
    (inputs / "1.png").unlink()
    with pytest.raises(ValueError, match=r"one image called 1\.png among the inputs, got 0"):
        ReportedPhotos(reports, inputs, min_side=16)
