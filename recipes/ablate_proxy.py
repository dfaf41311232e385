"""What each ingredient of the proxy's training is worth: short trainings that lack one each.

    python -m recipes.ablate_proxy photos=PHOTOS biq2021=BIQ2021 restored=SETS start=WEIGHTS

Every variant is ``recipes.train_proxy`` with ``config`` and a few words changed, in a folder of
its own under ``out``, with the same budget and seed; a kind of evidence that is left out is not
replaced by more of another, so a step costs less without it. Finished variants are kept, cut ones
resume. The table, ``out/table.md``, has what each training says of BIQ2021's validation photos at
its end; ``python -m benchmarks.evaluate_judge --weights out/*/weights`` measures the rest.
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
"""Words over the full training, by variant."""
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
    """What every variant starts from: ImageNet weights, so that nothing is learned already."""
    config: str = "recipes/configs/train_proxy/default.yaml"
    """Of the full training."""
    out: str = "runs/ablation"
    """A folder a variant."""
    steps: int = 300
    """Of each variant."""
    seed: int = 0
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Which are trained, in this order."""
    more: list[str] = field(default_factory=list)
    """Words for all of them, e.g. ``more=[threads=2]``."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"no variants {unknown}; there are {', '.join(VARIANTS)}")


def words(config: Config, variant: str) -> list[str]:
    """Command line of one variant's training."""
    data = [f"{k}={getattr(config, k)}" for k in ("photos", "biq2021", "restored", "start")]
    budget = [f"steps={config.steps}", f"seed={config.seed}", f"out={config.out}/{variant}"]
    return ["--config", config.config, *data, *budget, *VARIANTS[variant], *config.more]


def table(out: Path, variants: list[str]) -> str:
    """Markdown of what the last line of each variant's log says; its distance to ``all``."""
    found = {}
    for name in variants:
        lines = (out / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        found[name] = json.loads(lines[-1])
    whole = found.get("all")
    rows = ["| variant | " + " | ".join(FIGURES) + " |", "|---|" + "---|" * len(FIGURES)]
    for name, last in found.items():
        cells = []
        for figure in FIGURES:
            gap = f" ({last[figure] - whole[figure]:+.3f})" if whole and name != "all" else ""
            cells.append(f"{last[figure]:.3f}{gap}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, print the table."""
    config, _ = compose(Config, arguments)
    for variant in config.variants:
        if not (Path(config.out) / variant / "weights").is_dir():
            train_proxy.main(words(config, variant))
    text = table(Path(config.out), config.variants)
    write_text_atomic(Path(config.out) / "table.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
