"""Train fine-tunings side by side, every configuration with every seed.

    python -m benchmarks.train_methods --photos PHOTOS --methods draft1 nft --seeds 0 1 2
    python -m benchmarks.evaluate_finetuned --photos UNSEEN --runs runs/methods/*/seed-*

A method is a file of ``recipes/configs/finetune_restorer``; ``key=value`` words count for all of
them, so that the budget can be the same (``loop.steps=40``). Each run is a process of its own and
goes to ``runs/methods/METHOD/seed-N``. What has ended is left alone and what was cut short goes on,
so a killed command is simply started again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from recipes import finetune_restorer
from recipes.compose import compose
from zoomiqa_core.runs.folder import check_same_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "recipes" / "configs" / "finetune_restorer"


def command(method: str, seed: int, photos: str, out: Path, words: list[str]) -> list[str]:
    """The recipe's command line for one run.

    Raises:
        FileNotFoundError: there is no configuration of that name.
    """
    config = CONFIGS / f"{method}.yaml"
    if not config.is_file():
        known = sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml"))
        raise FileNotFoundError(f"no configuration {method!r}; there are {', '.join(known)}")
    given = [f"photos={photos}", f"out={out}", f"loop.seed={seed}", *words]
    return [sys.executable, "-m", "recipes.finetune_restorer", "--config", str(config), *given]


def main(arguments: list[str] | None = None) -> None:
    """Train all that has not ended; exit code 1 when a run fails, after the others."""
    parser = argparse.ArgumentParser(description="Train every configuration with every seed.")
    parser.add_argument("--photos", required=True, help="folder of clean photos")
    parser.add_argument("--methods", nargs="+", required=True, help="names of configurations")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("words", nargs="*", metavar="key=value", help="of all of them, anywhere")
    everything = sys.argv[1:] if arguments is None else arguments
    options = [word for word in everything if word.startswith("-") or "=" not in word]
    given = parser.parse_args(options)
    given.words = [word for word in everything if word not in options]

    runs = [
        (f"{method} seed {seed}", out, command(method, seed, given.photos, out, given.words))
        for seed in given.seeds  # all methods of one seed first: a table is there early
        for method in given.methods
        for out in [(given.out / method.replace("/", "-") / f"seed-{seed}").resolve()]
    ]
    failed = []
    for name, out, words in runs:
        if (out / "pipeline" / "README.md").is_file():  # written last
            _, resolved = compose(finetune_restorer.Config, words[words.index("--config") :])
            try:
                check_same_run(out, resolved)
                print(f"{name}: there already", flush=True)
            except ValueError as error:
                failed.append(f"{name}: {error}")
            continue
        print(f"{name}: {out}", flush=True)
        if subprocess.run(words, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(
        f"{len(runs) - len(failed)} of {len(runs)} runs are there"
        + "".join(map("\n  failed: {}".format, failed))
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
