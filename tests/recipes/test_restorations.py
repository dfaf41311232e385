"""The two recipes of the restoration judge, from photos to weights, and resumed."""

import pytest
import torch

from recipes import build_restorations, train_restoration_judge
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import find_families

pytest.importorskip("skimage")


def test_from_photos_to_weights(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in "abc":
        save_png(torch.rand(3, 56, 64, generator=generator), tmp_path / "photos" / f"{name}.png")
    configs = "recipes/configs"
    build = [
        "--config", f"{configs}/build_restorations/smoke.yaml",
        f"photos=[{tmp_path / 'photos'}]", f"out={tmp_path / 'pool'}",
    ]  # fmt: skip
    build_restorations.main(build)
    families = find_families(tmp_path / "pool" / "families")
    assert len(families) == 3
    written = families[0] / "degraded.png"
    before = written.stat().st_mtime_ns
    build_restorations.main(build)
    assert written.stat().st_mtime_ns == before

    train = [
        "--config", f"{configs}/train_restoration_judge/smoke.yaml",
        f"pool={tmp_path / 'pool' / 'families'}", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    train_restoration_judge.main(train)
    first = RestorationJudge.from_pretrained(tmp_path / "run" / "weights").state_dict()
    train_restoration_judge.main(train)  # measured families are kept
    again = RestorationJudge.from_pretrained(tmp_path / "run" / "weights").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
