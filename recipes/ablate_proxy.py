"""Ablation of the proxy's training: short trainings, each without one ingredient.

    python -m recipes.ablate_proxy photos=PHOTOS biq2021=BIQ2021 restored=SETS start=WEIGHTS

Every variant is ``recipes.train_proxy`` with ``config`` and a few overrides, in its own folder
under ``out``, with the same number of steps and seed. Left-out evidence is not replaced by more of
another kind, so a step without it is faster. Finished variants are kept, interrupted ones resume.
The table, ``out/table.md``, lists the last figures of each training on BIQ2021's validation photos;
``python -m benchmarks.evaluate_judge --weights out/*/weights`` measures the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from recipes import train_proxy
from recipes.compose import compose
from zoomiqa_core.runs.files import write_text_atomic

VARIANTS: dict[str, tuple[str, ...]] = {
    "all": (),
    "no_ranking": ("ranking_weight=0", "rated_ranking_weight=0"),
    "no_distorted": ("batch.distorted=0",),
    "no_map": ("map_weight=0", "batch.local=0"),
    "no_adversarial": ("adversarial.weight=0",),
    "no_text": ("batch.written=0",),
    "no_restored": ("batch.restored=0",),
}
"""Overrides of the full training, by variant."""
FIGURES = ("mean_subset_srcc", "srcc", "plcc")


@dataclass(frozen=True)
class Config:
    """Settings of an ablation."""

    photos: str = MISSING
    """Folder of clean photographs."""
    biq2021: str = MISSING
    """BIQ2021 folder."""
    restored: str = MISSING
    """Folder of restored sets."""
    start: str = MISSING
    """Start of every variant: ImageNet weights, so that nothing is learned before."""
    config: str = "recipes/configs/train_proxy/default.yaml"
    """Configuration of the full training."""
    out: str = "runs/ablation"
    """Folder with a sub-folder for each variant."""
    steps: int = 300
    """Optimisation steps of each variant."""
    seed: int = 0
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Variants to train, in this order."""
    more: list[str] = field(default_factory=list)
    """Overrides for all variants, e.g. ``more=[threads=2]``."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"no variants {unknown}; there are {', '.join(VARIANTS)}")


def command_line(config: Config, variant: str) -> list[str]:
    """Arguments of one variant's training."""
    data = [f"{k}={getattr(config, k)}" for k in ("photos", "biq2021", "restored", "start")]
    budget = [f"steps={config.steps}", f"seed={config.seed}", f"out={config.out}/{variant}"]
    return ["--config", config.config, *data, *budget, *VARIANTS[variant], *config.more]


def table(out: Path, variants: list[str]) -> str:
    """Markdown of the last line of each variant's log, with the difference from ``all``."""
    last_lines = {}
    for name in variants:
        lines = (out / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last_lines[name] = json.loads(lines[-1])
    full = last_lines.get("all")
    rows = ["| variant | " + " | ".join(FIGURES) + " |", "|---|" + "---|" * len(FIGURES)]
    for name, last in last_lines.items():
        cells = []
        for figure in FIGURES:
            gap = f" ({last[figure] - full[figure]:+.3f})" if full and name != "all" else ""
            cells.append(f"{last[figure]:.3f}{gap}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Train the missing variants, print the table."""
    config, _ = compose(Config, arguments)
    for variant in config.variants:
        if not (Path(config.out) / variant / "weights").is_dir():
            train_proxy.main(command_line(config, variant))
    text = table(Path(config.out), config.variants)
    write_text_atomic(Path(config.out) / "table.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
