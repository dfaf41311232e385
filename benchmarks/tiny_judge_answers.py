"""What a small judge answers: cases and chains of :mod:`benchmarks.evaluate_tiny_judge`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from benchmarks.damaged_photos import centre_crop
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.damage.kadid import DISTORTIONS, HELD_OUT, distort
from zoomiqa_core.data.teacher.damage_facts import InvisibleDamageError, damage_photo
from zoomiqa_core.images.sources import ImageSource, read_image, to_batch, to_pil
from zoomiqa_core.runs.random import derived_seed
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.local.expected import RatingPrefix, expected_rating, rating_prefix
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.local.prefix import read_prompts
from zoomiqa_core.zoom_iqa.local.prompt_encoding import EncodedImages
from zoomiqa_core.zoom_iqa.prompts import Prompts

SIDE = 308
"""Side of the crops of clean photos, pixels."""
AT_ONCE = 32
RATING = '"rating": '

Case = dict[str, Any]
"""What is known of an image (``kind``, ``target``, …), and an answer about it."""


def rated_cases(folder: Path, count: int) -> Iterator[tuple[Case, ImageSource]]:
    """BIQ2021's test split, evenly thinned to ``count``."""
    images = read_biq2021(folder, "test")
    for image in images[:: -(-len(images) // count)]:
        yield {"kind": "rated", "target": image.rating, "subset": image.subset}, image.path


def distorted_cases(photos: Sequence[Path], seed: int) -> Iterator[tuple[Case, ImageSource]]:
    """Every photo at every level of a type no judge has seen, each in turn; people's mean."""
    for index, photo in enumerate(photos):
        clean = centre_crop(to_batch(photo), SIDE, SIDE)
        name = HELD_OUT[index % len(HELD_OUT)]
        generator = torch.Generator().manual_seed(seed + index)
        for level, mos in enumerate(DISTORTIONS[name].mean_mos, start=1):
            image = distort(clean, name, level, generator=generator)[0]
            yield {"kind": "unseen", "target": mos, "type": name, "level": level}, image


def damaged_cases(photos: Sequence[Path], seed: int) -> Iterator[tuple[Case, ImageSource]]:
    """Every photo undamaged, damaged everywhere and damaged in one place, by seen types."""
    for index, photo in enumerate(photos):
        clean: Tensor = centre_crop(to_batch(photo), SIDE, SIDE)[0]
        generator = torch.Generator().manual_seed(seed + index)
        for kind in ("clean", "global", "local", "local"):
            try:
                made = damage_photo(clean, kind, generator=generator)
            except InvisibleDamageError:
                continue
            case = {"kind": kind, "target": made.facts.rating, "truth": made.region_truth}
            yield case, made.image


class Asked:
    """A judge that is asked one chain an image; every rating is read from the digits (E[rating]).

    Args:
        vlm: the model.
        prompts: texts it was trained on.
        seed: of the sampling.
    """

    def __init__(self, vlm: LocalVLM, prompts: Prompts, seed: int) -> None:
        self.vlm, self.prompts, self.seed = vlm, prompts, seed
        self.prefix = rating_prefix(vlm.processor.tokenizer)

    def answers(
        self, cases: Sequence[tuple[Case, ImageSource]], chains: int, name: str
    ) -> list[Case]:
        """What is known of every case and what the judge answers.

        Args:
            cases: with their images.
            chains: K; one for all cases, further ones for every fifth rated photo alone.
            name: of the judge, for the progress.
        """
        found: list[Case] = []
        for start in track(range(0, len(cases), AT_ONCE), name):
            part = cases[start : start + AT_ONCE]
            images = [to_pil(read_image(image).pixels) for _, image in part]
            found += self._part([case for case, _ in part], images, chains, start)
        return found

    def _part(
        self, cases: Sequence[Case], images: list[Image.Image], chains: int, start: int
    ) -> list[Case]:
        known: EncodedImages = {}
        question = self.prompts.question(self.seed)

        def begun(image: Image.Image, seed: int) -> Chain:
            return Chain(image, self.prompts, question, derived_seed(self.seed, seed))

        said, requests = self.run([begun(i, start + n) for n, i in enumerate(images)], known)
        first = [begun(image, 0).request for image in images]
        at_once = self.read([(r, self.prefix.ids) for r in first if r], known)
        texts = [[look.text for look in chain.rounds] for chain in said]
        spoken = [asked[-1] for asked in requests]
        after = self.read(
            [(r, self.upto_rating(t[-1])) for r, t in zip(spoken, texts, strict=True)], known
        )
        guesses = self.read(
            [(a[0], self.upto_rating(t[0])) for a, t in zip(requests, texts, strict=True)], known
        )
        others = [texts[n - 1][0] for n in range(len(texts))]
        swapped = self.read(
            [(r, self.upto_rating(t)) for r, t in zip(first, others, strict=True) if r], known
        )
        answers = []
        for n, (case, chain) in enumerate(zip(cases, said, strict=True)):
            looks = chain.rounds
            answer = {
                "valid": looks[-1].valid,
                "rating": after[n],
                "sampled": looks[-1].rating,
                "expected": at_once[n],
                "first": guesses[n],
                "zoomed": len(looks) > 1,
                "bbox": looks[0].bbox if looks[0].valid else None,
                "swapped": swapped[n],
                "swapped_target": cases[n - 1]["target"],
                "texts": texts[n],
            }
            if case["kind"] == "rated" and chains > 1 and (start + n) % 5 == 0:
                more = [begun(images[n], 10**6 + k) for k in range(chains)]
                several, asked = self.run(more, known)
                pairs = zip(several, asked, strict=True)
                ends = [(a[-1], self.upto_rating(c.rounds[-1].text)) for c, a in pairs]
                answer["ratings"] = self.read(ends, known)
            answers.append(case | answer)
        return answers

    def run(
        self, chains: list[Chain], known: EncodedImages
    ) -> tuple[list[Chain], list[list[Request]]]:
        """Chains to their end, and the requests of each round."""
        requests: list[list[Request]] = [[] for _ in chains]
        while waiting := [n for n, chain in enumerate(chains) if chain.request is not None]:
            asked = [chains[n].request for n in waiting]
            asked = [request for request in asked if request is not None]
            replies = self.vlm._generate(asked, known)  # images are encoded once for all readings
            for n, request, reply in zip(waiting, asked, replies, strict=True):
                rounds = len(chains[n].rounds)
                chains[n].read(reply.text, len(reply.ids))
                if len(chains[n].rounds) > rounds:  # otherwise it is asked once more
                    requests[n].append(request)
        return chains, requests

    def upto_rating(self, text: str) -> tuple[int, ...]:
        """Tokens of a reply up to its rating; those of a reply at once if it has none."""
        begun, found, _ = text.rpartition(RATING)
        if not found:
            return self.prefix.ids
        ids = self.vlm.processor.tokenizer(begun + RATING + "1.0", add_special_tokens=False)
        return tuple(ids["input_ids"][:-3])

    def read(
        self, begun: Sequence[tuple[Request, tuple[int, ...]]], known: EncodedImages
    ) -> list[float]:
        """The expected rating after each beginning of a reply."""
        ratings: list[float] = []
        for start in range(0, len(begun), AT_ONCE):
            prompts = [
                self.vlm.encoder.encode(request, known, ids)
                for request, ids in begun[start : start + AT_ONCE]
            ]
            state = read_prompts(self.vlm.family, prompts)
            prefix = RatingPrefix(self.prefix.ids, self.prefix.digits, self.prefix.point)
            ratings += [a.rating for a in expected_rating(state, prefix, min_digit_mass=0.0)]
        return ratings
