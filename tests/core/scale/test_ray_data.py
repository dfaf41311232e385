"""`JudgeBatch`: what it adds to a batch, and what a bad row costs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoomiqa_core as zi
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.errors import MissingImageError
from zoomiqa_core.scale.ray_data import JudgeBatch, image_of, record_of


@pytest.fixture(scope="module")
def judge() -> JudgeBatch:
    return JudgeBatch("proxy")


def noise(seed: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def encoded(pixels: np.ndarray, fmt: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, fmt)
    return file.getvalue()


def cells(*values: object) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_ratings_have_the_bits_of_assess_whatever_holds_the_image(
    judge: JudgeBatch, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encoded(noise(seed)))
    expected = zi.load_scorer("proxy").assess(paths)
    columns = {
        "paths": np.array([str(path) for path in paths]),
        "bytes": cells(*(path.read_bytes() for path in paths)),
        "structures": cells(*({"bytes": path.read_bytes(), "path": None} for path in paths)),
        "pixels": np.stack([noise(seed) for seed in range(3)]),
    }
    for kind, column in columns.items():
        judged = judge({"image": column, "name": np.array([str(path) for path in paths])})
        for key in ("rating", "rating_std", "score"):
            assert judged[key].tolist() == [getattr(each, key) for each in expected], kind
        assert judged["name"].tolist() == [str(path) for path in paths]


def test_columns_are_those_of_the_plain_results(judge: JudgeBatch) -> None:
    judged = judge({"image": np.stack([noise(0)]), "caption": np.array(["a"])})
    assert set(judged) == {"image", "caption", *Assessment(3.0, 0.1).to_dict()}
    assert judged["caption"].tolist() == ["a"]
    assert np.isnan(judged["gain"]).all() and judged["notes"].tolist() == ["[]"]


def test_bad_rows_are_named_and_the_others_go_on(judge: JudgeBatch) -> None:
    good = encoded(noise(1))
    flat = encoded(np.full((32, 32, 3), 9, np.uint8))
    rows = {
        "good": good,
        "truncated": good[: len(good) // 2],
        "unknown_format": b"no image at all",
        "empty": b"",
        "missing": None,
        "constant": flat,
        "bad_type": 7,
        "bad_shape": np.zeros((2, 2, 9), np.uint8),
        "bad_values": np.full((32, 32, 3), 7.0, np.float32),
        "last": good,
    }
    judged = judge({"image": cells(*rows.values()), "name": np.array(list(rows))})
    expected = [None if name in ("good", "last") else name for name in rows]
    assert judged["error"].tolist() == expected
    assert judged["valid"].tolist() == [error is None for error in expected]
    assert np.isnan(judged["rating"]).tolist() == [error is not None for error in expected]
    assert judged["message"][1].startswith("truncated: incomplete or damaged")
    assert judged["rating"][0] == judged["rating"][-1]


class RaisesOnBright:
    """A judge of others: one bright image makes it fail, whatever else is in the list."""

    name = "brittle"

    def assess(self, images):
        if not isinstance(images, list):
            images = [images]
            return self._all(images)[0]
        return self._all(images)

    def _all(self, images):
        means = [zi.read_image(image).pixels.mean().item() for image in images]
        if max(means) > 0.9:
            raise RuntimeError("too bright")
        return [Assessment(1 + mean, 0.1) for mean in means]


def test_a_judge_that_raises_loses_one_image_not_the_batch() -> None:
    images = np.stack([noise(0), np.full((48, 48, 3), 250, np.uint8), noise(1)])
    judged = JudgeBatch(RaisesOnBright())({"image": images})  # pyright: ignore
    assert judged["error"].tolist() == [None, "judge_error", None]
    assert judged["message"][1] == "RuntimeError: too bright"


def test_a_lost_accelerator_ends_the_batch() -> None:
    class Lost(RaisesOnBright):
        def _all(self, images):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(torch.AcceleratorError):
        JudgeBatch(Lost())({"image": noise(0)[None]})  # pyright: ignore


def test_a_function_makes_the_judge_where_it_judges() -> None:
    made = []
    batch = JudgeBatch(lambda: made.append(1) or zi.load_scorer("proxy"))  # pyright: ignore
    assert made == [1] and batch({"image": noise(0)[None]})["valid"].tolist() == [True]


def test_callers_mistakes_raise(judge: JudgeBatch) -> None:
    with pytest.raises(KeyError, match="no column 'image'; it has 'photo', 'id'"):
        judge({"photo": noise(0)[None], "id": np.array([1])})
    with pytest.raises(TypeError, match="batch_format"):
        judge([noise(0)])  # pyright: ignore
    with pytest.raises(TypeError, match="takes no mode"):
        JudgeBatch("proxy", mode="expected")
    with pytest.raises(TypeError, match="given by name"):
        JudgeBatch(RaisesOnBright(), model="x")  # pyright: ignore


def test_an_object_store_that_refuses_is_a_bad_row(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.png").write_bytes(encoded(noise(0)))
    stored = image_of(f"file://{tmp_path}/a.png", "a")
    assert torch.equal(zi.read_image(stored).pixels, zi.read_image(noise(0)).pixels)
    with pytest.raises(MissingImageError, match="no such file"):
        image_of(f"file://{tmp_path}/b.png", "b")


def test_nested_values_are_json() -> None:
    record = record_of(Assessment(3.0, 0.1, issues=("Noise in the “sky”.",)))
    assert json.loads(record["issues"]) == ["Noise in the “sky”."]
    assert record["chains"] is None and record["gain"] is None
