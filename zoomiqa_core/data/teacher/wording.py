"""Vocabulary of the synthetic teacher: words for flaws, their strength and verdicts.

Each flaw has names (which take an adjective of strength), signs (what it does to the picture) and
ideals (how the region looks without it, in words that name no flaw).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from zoomiqa_core.data.damage.kadid import find_distortion


@dataclass(frozen=True)
class Wording:
    """Phrases for one kind of flaw."""

    names: tuple[str, ...]
    signs: tuple[str, ...]
    """What it does to the picture; each completes "here …" and ": …"."""
    ideals: tuple[str, ...]


WORDINGS: dict[str, Wording] = {
    "blur": Wording(
        ("blur", "soft focus"),
        ("edges run into each other", "fine texture is lost", "outlines are soft"),
        ("crisp edges", "fine texture", "sharp outlines", "clear detail"),
    ),
    "smear": Wording(
        ("smearing", "smeared detail"),
        ("texture is wiped away", "small details melt together"),
        ("fine texture", "distinct detail", "crisp structure"),
    ),
    "noise": Wording(
        ("noise", "grain"),
        ("smooth areas look rough", "grain lies over the detail"),
        ("smooth, even tones", "calm surfaces", "pure tones"),
    ),
    "specks": Wording(
        ("speckles", "stray dots"),
        ("single dots stick out", "odd pixels break the tones"),
        ("even tones", "calm surfaces", "pure tones"),
    ),
    "blocks": Wording(
        ("compression blocks", "blockiness"),
        ("a grid of squares cuts smooth areas", "edges break into blocks"),
        ("smooth gradients", "continuous edges", "even tones"),
    ),
    "pixels": Wording(
        ("pixelation", "pixel stairs"),
        ("outlines turn into stairs", "detail is cut into squares"),
        ("smooth outlines", "fine detail", "continuous edges"),
    ),
    "bleeding": Wording(
        ("colour bleeding", "colour smear"),
        ("colours run over the edges", "colours spill into each other"),
        ("colours that follow the edges", "true colours"),
    ),
    "fringes": Wording(
        ("colour fringes", "colour ghosting"),
        ("coloured rims stand beside the edges", "the colours sit apart"),
        ("edges of one colour", "colours in register"),
    ),
    "banding": Wording(
        ("colour banding", "colour steps"),
        ("smooth colours break into dots and steps", "shades are missing"),
        ("smooth colour transitions", "rich shades"),
    ),
    "fading": Wording(
        ("colour fading", "colour loss"),
        ("the colours are almost grey", "the picture is pale"),
        ("rich colours", "lively colours", "natural colours"),
    ),
    "hue": Wording(
        ("colour error", "false colour"),
        ("the colours look wrong", "things have a foreign colour"),
        ("natural colours", "true colours"),
    ),
    "bright": Wording(
        ("overexposure", "excess light"),
        ("light areas lose detail", "tones are washed out"),
        ("balanced light", "full tones", "rich highlights"),
    ),
    "dark": Wording(
        ("underexposure", "lack of light"),
        ("the tones are dim", "shadows hide detail"),
        ("balanced light", "open shadows", "full tones"),
    ),
    "flat": Wording(
        ("contrast loss", "flatness"),
        ("tones lie close together", "the picture is flat"),
        ("rich contrast", "deep and bright tones"),
    ),
    "harsh": Wording(
        ("excess contrast", "overdone contrast"),
        ("tones jump from light to dark", "middle tones are missing"),
        ("balanced contrast", "gentle tones"),
    ),
    "patches": Wording(
        ("misplaced patches", "patch errors"),
        ("small pieces sit in the wrong place", "structure is torn up"),
        ("continuous structure", "whole shapes"),
    ),
    "squares": Wording(
        ("coloured squares", "solid squares"),
        ("solid squares hide the view", "squares cover the detail"),
        ("an open view", "continuous structure"),
    ),
    "halos": Wording(
        ("over-sharpening", "halos"),
        ("bright rims follow the edges", "texture looks harsh"),
        ("natural edges", "gentle transitions"),
    ),
    "overall": Wording(
        ("weakness", "lack of quality"),
        ("the whole impression suffers",),
        ("clear detail", "natural colours", "balanced light"),
    ),
}
"""By kind. ``overall`` stands for a low rating whose cause was not measured."""

_KINDS = {
    "gaussian_blur": "blur",
    "lens_blur": "blur",
    "motion_blur": "blur",
    "jitter": "blur",
    "colour_diffusion": "bleeding",
    "colour_shift": "fringes",
    "colour_quantisation": "banding",
    "quantisation": "banding",
    "hsv_saturation": "fading",
    "lab_chroma": "hue",
    "jpeg2000": "smear",
    "denoise": "smear",
    "jpeg": "blocks",
    "white_noise": "noise",
    "ycbcr_noise": "noise",
    "multiplicative_noise": "noise",
    "impulse_noise": "specks",
    "brighten": "bright",
    "darken": "dark",
    "misplaced_patches": "patches",
    "pixelate": "pixels",
    "colour_blocks": "squares",
    "over_sharpening": "halos",
}
_TWO_SIDED = {"mean_shift": ("bright", "dark"), "contrast_change": ("harsh", "flat")}
"""Types whose strength has a sign."""

SEVERITIES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (4.0, ("faint", "slight")),
    (3.3, ("mild", "light")),
    (2.4, ("clear", "visible")),
    (1.7, ("strong", "heavy")),
    (1.0, ("severe", "extreme")),
)
"""Adjectives by the least rating of a place they fit."""

VERDICTS: tuple[tuple[float, tuple[str, ...]], ...] = (
    (4.5, ("excellent", "superb", "outstanding")),
    (3.5, ("good", "fine", "pleasing")),
    (2.5, ("fair", "middling", "acceptable")),
    (1.5, ("poor", "weak", "disappointing")),
    (1.0, ("bad", "awful", "dreadful")),
)
"""Words of the five-point scale (ITU-R BT.500), and synonyms, by the least rating they fit."""
WORD_SPREAD = 0.25
"""Standard deviation of the rating that an adjective is chosen by: people do not agree on them
either, and the image, not the adjective before it, must decide the rating."""

_FLAW_WORDS = """
soft blur blurred blurry smear smeared smearing lost lose loss noise noisy grain grainy rough
speckles speckle dots dot odd stray blocks block blocky blockiness compression grid squares
pixelation pixel pixels pixelated coarse stairs bleeding spill fringes rims ghosting banding
steps fading faded pale grey error errors false wrong foreign overexposure underexposure excess
overdone washed dark dim lack missing hide hidden flat flatness weak weakness harsh misplaced
patches patch torn solid halos halo over-sharpening flaw flaws damage damaged defect artifact
artifacts distortion distorted bad poor dull broken suffers no not without less never
"""
FLAW_WORDS = frozenset(_FLAW_WORDS.split())
"""Words that may not stand among the directions, which hold positive words only."""

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


def flaw_words(text: str) -> list[str]:
    """The words of a text that name a flaw or deny something."""
    return [word for word in _WORD.findall(text.lower()) if word in FLAW_WORDS]


def flaw_kind(distortion: str, level: int) -> str:
    """The kind of flaw, a key of :data:`WORDINGS`, that a KADID distortion makes at a level."""
    strength = find_distortion(distortion, level).levels[level - 1]
    if distortion in _TWO_SIDED:
        return _TWO_SIDED[distortion][0 if strength > 0 else 1]
    if distortion == "hsv_saturation" and strength < 0:
        return "hue"  # a negative saturation turns every hue into its opposite
    return _KINDS[distortion]


def severity(rating: float, generator: torch.Generator) -> str:
    """An adjective for a flaw whose place people rate about so."""
    return _adjective(SEVERITIES, rating, generator)


def verdict(rating: float, generator: torch.Generator) -> str:
    """A word for a picture that people rate about so.

    >>> [verdict(5.0, torch.Generator().manual_seed(seed)) for seed in range(3)]
    ['superb', 'superb', 'outstanding']
    """
    return _adjective(VERDICTS, rating, generator)


def other_adjectives(word: str) -> tuple[str, ...]:
    """Adjectives of another degree on the word's scale; none if the word is on no scale.

    >>> "good" in other_adjectives("poor"), "weak" in other_adjectives("poor")
    (True, False)
    >>> other_adjectives("red")
    ()
    """
    for scale in (VERDICTS, SEVERITIES):
        if any(word in words for _, words in scale):
            return tuple(w for _, words in scale if word not in words for w in words)
    return ()


def _adjective(
    scale: tuple[tuple[float, tuple[str, ...]], ...], rating: float, generator: torch.Generator
) -> str:
    about = rating + WORD_SPREAD * float(torch.randn((), generator=generator))
    words = next(words for least, words in scale if about >= least or least == 1.0)
    return pick(words, generator)


def pick(options: tuple[str, ...], generator: torch.Generator) -> str:
    """One of the options, drawn."""
    return options[int(torch.randint(len(options), (), generator=generator))]
