"""Train the small Zoom-IQA judge end to end: data, SFT, on-policy correction, GRPO.

    python -m recipes.train_tiny_judge --config recipes/configs/train_tiny_judge/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 out=runs/tiny_judge

It runs ``build_gr_iqa``, makes a model whose vision tower is the bundled proxy's backbone
(`zoomiqa_core.training.small_vlm`), and then runs for each seed ``train_sft``,
``train_correction`` and every variant of ``train_grpo``, each in its own folder under ``out``. The
frozen tower sees each picture once; its maps are in ``out/maps``. The same command resumes an
interrupted run. The judges are ``out/STAGE-SEED/judge``;
``python -m benchmarks.evaluate_tiny_judge`` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf

from recipes import build_gr_iqa, train_correction, train_grpo, train_sft
from recipes.compose import compose
from zoomiqa_core.data.gr_iqa.records import read_records, reply_text
from zoomiqa_core.runs.files import write_text_atomic
from zoomiqa_core.training.small_vlm import SmallSize, build_small_vlm


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
    """Seeds of the training; the data are made once."""
    gr_iqa: dict[str, Any] = field(default_factory=dict)
    """Settings of ``build_gr_iqa``."""
    size: SmallSize = field(default_factory=SmallSize)
    """Size of the model."""
    sft: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_sft``."""
    correction: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_correction``."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Settings of ``train_grpo``, in every variant."""
    variants: dict[str, Any] = field(default_factory=lambda: {"grpo": {}})
    """Settings of each variant of ``train_grpo``, by name; they override ``grpo``. Without variants
    the correction is the last stage."""


def run_stage(recipe: Any, folder: Path, settings: Mapping[str, Any], *words: str) -> None:
    """Run a recipe in its folder; its settings are saved beside the folder."""
    config = folder.with_suffix(".yaml")
    write_text_atomic(config, yaml.safe_dump(dict(settings), sort_keys=False))
    print(f"== {folder.name}", flush=True)
    recipe.main(["--config", str(config), *words, f"out={folder}"])


def make_model(folder: Path, data: Path, size: SmallSize, seed: int) -> None:
    """Save a model with a random language model, whose tokenizer knows the records' words."""
    if (folder / "model.safetensors").is_file():
        return
    records = read_records(data)
    corpus = [reply_text(look, n) for r in records for n, look in enumerate(r.rounds, start=1)]
    model, processor = build_small_vlm(size, corpus=corpus, seed=seed)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Run all stages."""
    config, _ = compose(Config, arguments)
    out = Path(config.out)
    photos, rated = f"photos={config.photos}", f"biq2021={config.biq2021}"
    run_stage(build_gr_iqa, out / "gr_iqa", config.gr_iqa, photos, rated)
    data, prompts = f"data={out / 'gr_iqa'}", f"prompts={config.prompts}"
    for seed in config.seeds:
        start, sft, own = (out / f"{stage}-{seed}" for stage in ("model", "sft", "correction"))
        make_model(start, out / "gr_iqa", config.size, seed)
        words = [data, prompts, f"loop.seed={seed}"]
        maps = f"map_cache={out / 'maps'}"
        run_stage(train_sft, sft, config.sft, *words, maps, f"model={start}")
        run_stage(train_correction, own, config.correction, *words, maps, f"model={sft / 'judge'}")
        for name, variant in config.variants.items():
            settings: Any = OmegaConf.to_container(OmegaConf.merge(config.grpo, variant or {}))
            run_stage(
                train_grpo, out / f"{name}-{seed}", settings, *words, f"model={own / 'judge'}"
            )


if __name__ == "__main__":
    main()
