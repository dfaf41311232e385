"""Train a small Zoom-IQA model from random weights, end to end: data, vision, SFT, GRPO.

    python -m recipes.train_tiny_judge --config recipes/configs/train_tiny_judge/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 out=runs/tiny_judge

It runs ``build_gr_iqa``, ``train_tiny_vision`` and then, for each seed, ``train_sft`` and every
variant of ``train_grpo``, each in its own folder under ``out``. The same command resumes an
interrupted run. The judges are ``out/sft-SEED/judge`` and
``out/VARIANT-SEED/judge``; ``python -m benchmarks.evaluate_tiny_judge`` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf

from recipes import build_gr_iqa, train_grpo, train_sft, train_tiny_vision
from recipes.compose import compose
from zoomiqa_core.runs.files import write_text_atomic


@dataclass(frozen=True)
class Config:
    """Settings of the whole training; those of a stage override the defaults of its recipe."""

    photos: str = MISSING
    """Folder of clean photographs."""
    biq2021: str = MISSING
    """BIQ2021 folder; its training split is used."""
    out: str = "runs/tiny_judge"
    """Run folder."""
    prompts: str = "recipes/prompts/tiny.yaml"
    """Prompts of the judge; short ones, which keep a small model fast."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of SFT and GRPO; data and vision are made once."""
    gr_iqa: dict[str, Any] = field(default_factory=dict)
    """Settings of ``build_gr_iqa``."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_tiny_vision``."""
    sft: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_sft``."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_grpo``, in every variant."""
    variants: dict[str, Any] = field(default_factory=lambda: {"grpo": {}})
    """Settings of each variant of ``train_grpo``, by name; they override ``grpo``."""


def run_stage(recipe: Any, folder: Path, settings: Mapping[str, Any], *words: str) -> None:
    """Run a recipe in its folder; its settings are saved beside the folder."""
    config = folder.with_suffix(".yaml")
    write_text_atomic(config, yaml.safe_dump(dict(settings), sort_keys=False))
    print(f"== {folder.name}", flush=True)
    recipe.main(["--config", str(config), *words, f"out={folder}"])


def main(arguments: list[str] | None = None) -> None:
    """Run all stages."""
    config, _ = compose(Config, arguments)
    out = Path(config.out)
    photos, rated = f"photos={config.photos}", f"biq2021={config.biq2021}"
    run_stage(build_gr_iqa, out / "gr_iqa", config.gr_iqa, photos, rated)
    data, prompts = f"data={out / 'gr_iqa'}", f"prompts={config.prompts}"
    run_stage(train_tiny_vision, out / "vision", config.vision, data)
    for seed in config.seeds:
        words, sft = [data, prompts, f"loop.seed={seed}"], out / f"sft-{seed}"
        run_stage(train_sft, sft, config.sft, *words, f"model={out / 'vision' / 'model'}")
        for name, variant in config.variants.items():
            settings: Any = OmegaConf.to_container(OmegaConf.merge(config.grpo, variant or {}))
            run_stage(
                train_grpo, out / f"{name}-{seed}", settings, *words, f"model={sft / 'judge'}"
            )


if __name__ == "__main__":
    main()
