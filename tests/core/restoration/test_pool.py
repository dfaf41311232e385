"""Families of restorations: kinds, reproducibility, files."""

import pytest
import torch

from zoomiqa_core.restoration.pool import (
    DEGRADATIONS,
    FAULTS,
    degraded_copy,
    find_families,
    invented_texture,
    load_family,
    make_family,
    save_family,
)

pytest.importorskip("skimage")


def made(seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean, other = torch.rand(2, 3, 48, 48, generator=generator)
    degraded = degraded_copy(clean, "blur", generator)
    restorers = {"half": lambda image: image * 0.5}
    return make_family(clean, degraded, other, restorers, generator), degraded


def test_a_family_holds_its_kinds_on_the_8_bit_grid_and_the_seed_decides():
    family, degraded = made(1)
    again, _ = made(1)
    assert {"clean", "input", "half", "blend", "blend-clean"} <= set(family)
    assert len(family) == 2 + 1 + 4 + 3 + 6
    assert len(set(family) & set(FAULTS)) == 6
    for kind, image in family.items():
        assert image.shape == (3, 48, 48) and torch.equal(image, again[kind])
        torch.testing.assert_close(image * 255, (image * 255).round())
    torch.testing.assert_close(family["half"], ((degraded * 0.5) * 255).round() / 255)


def test_saved_families_are_read_again(tmp_path):
    family, degraded = made(2)
    save_family(tmp_path / "00000_a_photo", family, degraded)
    (path,) = find_families(tmp_path)
    read = load_family(path)
    assert read.name == "a_photo" and sorted(read.kinds) == sorted(family)
    for kind, image in zip(read.kinds, read.images, strict=True):
        torch.testing.assert_close(image.float() / 255, family[kind])
    torch.testing.assert_close(read.degraded.float() / 255, degraded)
    with pytest.raises(FileNotFoundError, match="build_restorations"):
        find_families(tmp_path / "none")


@pytest.mark.parametrize("degradation", sorted(set(DEGRADATIONS)))
def test_every_degradation_but_the_mildest_changes_the_photo(degradation):
    clean = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0))
    clean = (clean * 255).round() / 255
    degraded = degraded_copy(clean, degradation, torch.Generator().manual_seed(1))
    assert degraded.shape == clean.shape
    # KADID's mildest blur has a standard deviation of .1 px
    mildest = degradation in ("none", "kadid:gaussian_blur:1")
    assert torch.equal(degraded, clean) == mildest


def test_invented_texture_keeps_the_smooth_part():
    image, other = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changed = invented_texture(image, other, 1.0)
    means = [x.unfold(1, 16, 16).unfold(2, 16, 16).mean((-1, -2)) for x in (image, changed)]
    assert (means[0] - means[1]).abs().max() < 0.05
    assert (image - changed).abs().mean() > 0.1
