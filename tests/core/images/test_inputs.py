"""What a judge accepts: every way to hand over images, and which mistakes raise."""

from __future__ import annotations

import io
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from zoomiqa_core.images.errors import BadShapeError, BadTypeError, BadValuesError
from zoomiqa_core.images.inputs import (
    each_image,
    in_parts,
    is_flat,
    is_single_image,
    read_or_fail,
)
from zoomiqa_core.images.sources import DecodedImage

BATCH = torch.rand(3, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def pixels(images) -> torch.Tensor:
    decoded = [read_or_fail(image) for image in each_image(images)]
    assert all(isinstance(image, DecodedImage) for image in decoded)
    return torch.stack([image.pixels for image in decoded if isinstance(image, DecodedImage)])


class Series:
    """As of pandas: one dimension, iterable, neither a list nor a sequence."""

    ndim, shape = 1, (3,)

    def __iter__(self):
        return iter(list(BATCH))


SEVERAL = {
    "list": lambda: list(BATCH),
    "tuple": lambda: tuple(BATCH),
    "deque": lambda: deque(BATCH),
    "generator": lambda: (image for image in BATCH),
    "map": lambda: map(torch.clone, BATCH),
    "dictionary values": lambda: dict(enumerate(BATCH)).values(),
    "series": Series,
    "tensor": lambda: BATCH,
    "array": lambda: BATCH.permute(0, 2, 3, 1).numpy(),
    "list of batches of one": lambda: [image[None] for image in BATCH],
    "array of objects": lambda: np.fromiter(
        [image.numpy().transpose(1, 2, 0) for image in BATCH], dtype=object
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_images_are_the_same_pixels_whatever_holds_them(kind):
    assert not is_single_image(SEVERAL[kind]())
    assert torch.equal(pixels(SEVERAL[kind]()), BATCH)


def test_a_set_and_an_array_of_paths(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    for path in paths:
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    assert sorted(each_image(set(paths))) == list(each_image(np.array(paths))) == paths  # pyright: ignore


@pytest.mark.parametrize("image", [BATCH[0], BATCH[0, 0], BATCH[0, :1], BATCH[0].numpy()[0]])
def test_one_image_is_single_and_a_batch_of_one_is_not(image):
    assert is_single_image(image) and len(list(each_image(image))) == 1
    assert not is_single_image(BATCH[:1]) and len(list(each_image(BATCH[:1]))) == 1
    assert list(each_image(BATCH[:0])) == [] == list(each_image([]))


MISTAKES = {
    "number": (3, BadTypeError, "got int"),
    "nothing": (None, BadTypeError, "got NoneType"),
    "bytes": (b"png", BadTypeError, "PIL.Image.open"),
    "open file": (io.BytesIO(b"a\nb"), BadTypeError, "PIL.Image.open"),
    "mapping": ({"a.png": 1}, BadTypeError, "got dict"),
    "table": (SimpleNamespace(ndim=2, shape=(2, 2)), BadTypeError, "got SimpleNamespace of shape"),
    "list with a number": (["a.png", 3], BadTypeError, r"images\[1\]: .* got int"),
    "list with a batch": ([BATCH], BadShapeError, r"images\[0\]: .* one by one"),
    "channels last": (BATCH.permute(0, 2, 3, 1), BadShapeError, r"\.permute\(2, 0, 1\)"),
    "video": (BATCH[None], BadTypeError, r"Tensor of shape \(1, 3, 3, 4, 6\)"),
    "integers": (np.zeros((2, 4, 4, 3), np.int64), BadTypeError, "int64"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_raises_before_anything_is_judged(name):
    images, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        each_image(images)


def test_a_wrong_type_is_a_type_error_and_a_value_error():
    assert issubclass(BadTypeError, TypeError) and issubclass(BadTypeError, ValueError)


def test_an_iterator_is_read_only_as_far_as_it_is_consumed():
    taken = []

    def stream():
        for image in BATCH:
            taken.append(image)
            yield image

    parts = in_parts(each_image(stream()), 2)
    assert len(next(parts)) == 2 and len(taken) == 2
    assert [len(part) for part in parts] == [1]


def test_out_of_range_raises_for_a_tensor_and_fails_for_a_file(tmp_path):
    path = tmp_path / "hdr.tiff"
    Image.fromarray(np.array([[0.1, 40.0]], np.float32)).save(path)
    assert read_or_fail(path).error == "bad_values"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(BadValuesError, match="divide by 255"):
        read_or_fail(BATCH[0] * 255)
    broken = BATCH[0].clone()
    broken[0, 0, 0] = torch.nan  # what a model gave, not a mistake in the call
    assert read_or_fail(broken).error == "not_finite"  # pyright: ignore[reportAttributeAccessIssue]


def test_one_flat_colour_is_constant():
    flat = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1).expand(3, 8, 8).clone()
    said = read_or_fail(flat)
    assert said.error == "constant" and "RGB (0.20, 0.40, 0.60)" in said.message  # pyright: ignore
    flat[1, 3, 3] += 1.5 / 255
    assert is_flat(flat)
    flat[1, 3, 3] += 1 / 255
    assert not is_flat(flat)
