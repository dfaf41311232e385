"""The judge's speed beside bare backbones and peers, and its share of restoring with best-of-N.

    make speed
    python -m benchmarks.judge_speed --size 512 --rounds 9 --out runs/judge_speed

One run, one table. Every time is given as a multiple of the forward of timm's bare
`tf_efficientnet_lite0` in the same round (machines differ, ratios travel), with that forward's
milliseconds beside it. "Backward" adds the gradient with respect to the image, which is what a
reward costs; the weights are frozen. Left in the output folder: `table.md` and `results.json` with
versions, processor, threads and seed. Run it on an idle machine.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks import peers, timing
from benchmarks.peers import Judge
from zoomiqa_core.runs.files import write_text_atomic

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
    counts = sorted({row.threads for row in rows})
    titles = [f"{c} thread{'s' * (c > 1)}" for c in counts]
    columns = ("forward", "+ backward", "ms")
    head = [f"{size}²", *(f"{title}: {column}" for title in titles for column in columns)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in dict.fromkeys(row.name for row in rows):
        line = [name]
        for row in (row for row in rows if row.name == name):
            backward = "–" if row.backward is None else f"{row.backward:.2f}"
            line += [f"{row.forward:.2f}", backward, f"{row.milliseconds:.1f}"]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def restoration_table(rows: list[RestorationTime]) -> str:
    """Markdown: time of a candidate and of its judgement."""
    lines = [
        "| threads | image | candidates | s per candidate | judging, s | judging's share |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.threads} | {row.size}² | {row.candidates} | {row.seconds_per_candidate:.2f} "
        f"| {row.judge_seconds_per_candidate:.3f} | {row.judge_share:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="folder for table.md and results.json")],
    size: Annotated[int, typer.Option(min=32, help="side of the judged image, px")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of each judge")] = 9,
    restored_size: Annotated[int, typer.Option(min=32, help="its side when restored, px")] = 256,
    candidates: Annotated[int, typer.Option(min=1, help="candidates of the restored image")] = 8,
    seed: Annotated[int, typer.Option(help="seed of the images")] = 0,
) -> None:
    """Time the judge beside its peers and within best-of-N; print and save one table."""
    generator = torch.Generator().manual_seed(seed)
    image, reference = torch.rand(2, 1, 3, size, size, generator=generator)
    degraded = torch.rand(1, 3, restored_size, restored_size, generator=generator)

    hardware = timing.hardware()
    timed = judges(reference)
    judged: list[JudgeTime] = []
    restored: list[RestorationTime] = []
    for count in sorted({1, int(hardware["cores"])}):
        with timing.threads(count):
            judged += time_judges(timed, image, rounds=rounds)
            restored.append(time_restoration(degraded, candidates=candidates, seed=seed))

    described = ", ".join(f"{key} {value}" for key, value in hardware.items())
    table = "\n\n".join([judges_table(judged, size), restoration_table(restored), described])
    print(table)
    results = {
        "settings": {"size": size, "rounds": rounds, "seed": seed, "reference": REFERENCE},
        "hardware": hardware,
        "judges": [asdict(row) for row in judged],
        "restoration": [{**asdict(row), "judge_share": row.judge_share} for row in restored],
    }
    write_text_atomic(out / "table.md", table + "\n")
    write_text_atomic(out / "results.json", json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
