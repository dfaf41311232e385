"""Restoring and gating as batch classes: what the plain calls give, and what a bad row costs."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restoration_guide.gate.gate import QualityGate
from restoration_guide.integrations.ray_data import GateBatch, RestoreBatch
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core.images.sources import save_png


def cells(*values: object) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_pictures_have_the_bytes_of_a_saved_selection(stubs, photo: Tensor, tmp_path: Path) -> None:
    paths = [str(save_png(photo.roll(shift, 2), tmp_path / f"{shift}.png")) for shift in (0, 7)]
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)
    restored = RestoreBatch(lambda: search, seed=3)({"image": np.array(paths)})
    for index, path in enumerate(paths):
        plain = search(path, seed=3)
        saved = plain.save(tmp_path / f"best-{index}.png").read_bytes()
        assert restored["picture"][index] == saved
        assert restored["choice"][index] == str(plain.choice)
        assert restored["reason"][index] == plain.reason
        assert restored["rating"][index] == plain.assessments[plain.choice].rating
        assert len(json.loads(restored["candidates"][index])) == 3
    assert restored["name"].tolist() == paths and restored["valid"].all()


def test_a_search_that_fails_is_a_row_with_its_reason(stubs, photo: Tensor) -> None:
    broken = BestOfN(stubs.Restorer([ValueError("no weights")]), stubs.Scorer(), n=1)
    half = BestOfN(stubs.Restorer([stubs.smooth, ValueError("stop")]), stubs.Scorer(), n=2)
    blind = BestOfN(stubs.Restorer(), stubs.Scorer(fails_on=lambda _: True), n=1)
    pixels = photo.permute(1, 2, 0).numpy()
    expected = {"restoration_failed": broken, "stopped": half, "unjudged": blind}
    for error, search in expected.items():
        row = RestoreBatch(search)({"image": cells(pixels)})
        assert row["error"].tolist() == [error] and not row["valid"][0]
    assert row["picture"][0] is not None, "an unjudged search gives back the input"


def test_bad_images_do_not_stop_the_others(stubs, photo: Tensor) -> None:
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)
    good = photo.permute(1, 2, 0).numpy()
    rows = RestoreBatch(search)({"image": cells(b"no image", good, None, "missing.png")})
    assert rows["error"].tolist() == ["unknown_format", None, "missing", "missing"]


def test_verdicts_are_those_of_the_gate(stubs, photo: Tensor) -> None:
    gate = QualityGate(stubs.Scorer(), min_rating=3)
    before = photo.permute(1, 2, 0).numpy()
    results = [
        stubs.smooth(photo, torch.Generator().manual_seed(0)),
        photo,
        torch.zeros_like(photo),
        photo[:, :32],
    ]
    after = [result.permute(1, 2, 0).contiguous().numpy() for result in results]
    said = GateBatch(gate)({"before": cells(*[before] * 4), "after": cells(*after)})
    plain = [gate(before, result) for result in after]
    assert said["action"].tolist() == [verdict.action for verdict in plain]
    assert said["defect"].tolist() == [verdict.defect for verdict in plain]
    assert [json.loads(text) for text in said["reasons"]] == [list(v.reasons) for v in plain]
    assert len(set(said["action"])) > 1 and said["valid"].all()


def test_a_pair_without_its_input_is_invalid(stubs, photo: Tensor) -> None:
    gate = QualityGate(stubs.Scorer(), min_rating=3)
    good = photo.permute(1, 2, 0).numpy()
    said = GateBatch(gate)({"before": cells(b"", None, good), "after": cells(good, good, b"")})
    assert said["error"].tolist() == ["input_unreadable", "missing", None]
    assert (said["action"][2], said["defect"][2]) == ("reject", "unreadable")
