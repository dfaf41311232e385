"""The judge's speed beside bare backbones and peers, and its share of restoring with best-of-N.

    make speed
    python -m benchmarks.judge_speed --size 512 --rounds 9

One run, one table. Every time is given as a multiple of the forward of timm's bare
`tf_efficientnet_lite0` in the same round (machines differ, ratios travel), with that forward's
milliseconds beside it. "Backward" adds the gradient with respect to the image, which is what a
reward costs; the weights are frozen. Run it on an idle machine.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor

from benchmarks import peers, tables, timing
from benchmarks.peers import Judge

REFERENCE = peers.BACKBONES[0]


@dataclass(frozen=True)
class JudgeTime:
    """One row of the judges' table."""

    name: str
    threads: int
    milliseconds: float
    """Forward, median."""
    forward: float
    """Forward, as a multiple of the reference's forward."""
    backward: float | None
    """Forward and gradient in the image, as a multiple of the reference's forward."""


@dataclass(frozen=True)
class RestorationTime:
    """One row of the restoration table: N candidates of one image, made and judged."""

    threads: int
    size: int
    candidates: int
    seconds_per_candidate: float
    judge_seconds_per_candidate: float

    @property
    def judge_share(self) -> float:
        """Judging's share of generating and judging."""
        both = self.seconds_per_candidate + self.judge_seconds_per_candidate
        return self.judge_seconds_per_candidate / both


def load_judge() -> torch.nn.Module:
    """The judge; its speed does not depend on the weights, so none are loaded."""
    from zoomiqa_core.proxy.model import QualityProxy

    return QualityProxy().eval().requires_grad_(False)


def judges(reference: Tensor) -> dict[str, Judge]:
    """Everything that is timed, by name."""
    proxy = load_judge()
    timed: dict[str, Judge] = {
        "QualityProxy": lambda batch: proxy(batch).rating,
        **{name: peers.backbone(name) for name in peers.BACKBONES},
        "Laplacian variance": peers.laplacian_variance,
        "SSIM (torchmetrics, has a reference)": peers.ssim_with(reference),
    }
    try:
        timed["BRISQUE (brisque)"] = peers.brisque()
    except ImportError as error:
        print(f"BRISQUE is left out: {error}; `pip install '.[eval]'`", file=sys.stderr)
    return timed


def forward(judge: Judge, image: Tensor) -> Callable[[], object]:
    """One judgement without gradients."""

    def run() -> object:
        with torch.inference_mode():
            return judge(image)

    return run


def forward_backward(judge: Judge, image: Tensor) -> Callable[[], object]:
    """One judgement and its gradient with respect to the image."""

    def run() -> object:
        leaf = image.clone().requires_grad_()
        return torch.autograd.grad(judge(leaf).sum(), leaf)

    return run


def time_judges(timed: dict[str, Judge], image: Tensor, *, rounds: int) -> list[JudgeTime]:
    """Forward and backward of every judge at torch's present number of threads."""
    runs = {f"{name} forward": forward(judge, image) for name, judge in timed.items()}
    differentiable = [n for n, judge in timed.items() if isinstance(judge(image), Tensor)]
    runs |= {f"{n} backward": forward_backward(timed[n], image) for n in differentiable}
    measured = timing.interleaved_seconds(runs, rounds=rounds)
    ratios = timing.ratios(measured, measured[f"{REFERENCE} forward"])
    return [
        JudgeTime(
            name,
            torch.get_num_threads(),
            1e3 * median(measured[f"{name} forward"]),
            ratios[f"{name} forward"],
            ratios.get(f"{name} backward"),
        )
        for name in timed
    ]


def time_restoration(image: Tensor, *, candidates: int, seed: int) -> RestorationTime:
    """The bundled restorer's candidates of one image, and the judge's time for them."""
    from restoration_guide.restorers import load_restorer

    restorer, judge = load_restorer("builtin"), load_judge()
    next(iter(restorer.restore(image, n=1, seed=seed)))  # unmeasured
    forward(judge, image)()
    made: list[Tensor] = []
    generating = timing.seconds(
        lambda: made.extend(c.image[None] for c in restorer.restore(image, n=candidates, seed=seed))
    )
    judging = timing.seconds(lambda: [forward(judge, candidate)() for candidate in made])
    return RestorationTime(
        torch.get_num_threads(),
        image.shape[-1],
        candidates,
        generating / candidates,
        judging / candidates,
    )


def judges_table(rows: list[JudgeTime], size: int) -> str:
    """Markdown: one line a judge, its ratios at each number of threads side by side."""
    columns: dict[str, dict[str, float | str]] = {}
    for row in rows:
        title = f"{row.threads} thread{'s' * (row.threads > 1)}"
        backward = "–" if row.backward is None else row.backward
        figures = {"forward": row.forward, "+ backward": backward, "ms": f"{row.milliseconds:.1f}"}
        for name, value in figures.items():
            columns.setdefault(f"{title}: {name}", {})[row.name] = value
    head = [f"{size}²", *columns]
    names = dict.fromkeys(row.name for row in rows)
    lines = ([name, *(column.get(name) for column in columns.values())] for name in names)
    return tables.table(head, lines, digits=2)


def restoration_table(rows: list[RestorationTime]) -> str:
    """Markdown: time of a candidate and of its judgement."""
    head = ["threads", "image", "candidates", "s per candidate", "judging, s", "judging's share"]
    lines = (
        (
            str(row.threads),
            f"{row.size}²",
            row.candidates,
            row.seconds_per_candidate,
            row.judge_seconds_per_candidate,
            f"{row.judge_share:.1%}",
        )
        for row in rows
    )
    return tables.table(head, lines)


def main() -> None:
    """Time the judge beside its peers and within best-of-N; print and save the tables."""
    parser = tables.arguments(
        __doc__, out="runs/judge_speed.json", size=512, rounds=9, restored_size=256, candidates=8
    )
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(given.seed)
    image, reference = torch.rand(2, 1, 3, given.size, given.size, generator=generator)
    degraded = torch.rand(1, 3, given.restored_size, given.restored_size, generator=generator)
    timed = judges(reference)
    judged: list[JudgeTime] = []
    restored: list[RestorationTime] = []
    for count in sorted({1, os.cpu_count() or 1}):
        with timing.threads(count):
            judged += time_judges(timed, image, rounds=given.rounds)
            restored.append(
                time_restoration(degraded, candidates=given.candidates, seed=given.seed)
            )
    text = judges_table(judged, given.size) + "\n\n" + restoration_table(restored)
    tables.finish(
        given,
        text,
        judges=[asdict(row) for row in judged],
        restoration=[asdict(row) for row in restored],
    )


if __name__ == "__main__":
    main()
