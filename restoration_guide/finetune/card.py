"""Model card of a fine-tuned restorer: training, verdict, measurements, limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from restoration_guide.finetune.checks import EVIDENCE, STATISTIC, Check

CARD = """---
library_name: diffusers
{licence}
pipeline_tag: image-to-image
tags:
- image-restoration
- reward-fine-tuning
---

# A restorer fine-tuned towards a reward

{how}

## Training

{verdict}

Steps that changed nothing because no sample had a finite reward or gradient: {skipped_steps}.

| step | {heads} | verdict |
|---|{rules}---|
{rows}

Means over the same held-out images at every check. *in_sample/…* is by a judge of the reward, so
its rise proves nothing. The others are independent of those judges, but some may be terms of the
reward.

## Measured

{measured}

## Limits

A higher in-sample rating alone is no improvement. The monitor measures {images} images
with statistics that are known to change under over-optimisation; it does not detect other damage.

## Configuration

Without the folders of data and results:

```yaml
{config}```
"""


def verdict(checks: Sequence[Check], kept: int) -> str:
    """How the run ended, which weights were kept, and why, in words.

    >>> start = Check(0, {"judge": 3.0}, 0.0, 1.0)
    >>> hacked = Check(40, {"judge": 2.6}, 0.5, 0.001, hacked=True, reason="hacked: judge fell")
    >>> verdict([start, hacked], kept=0)
    'Stopped at step 40. Hacked: judge fell. Kept: the untuned restorer.'
    """
    last = checks[-1]
    if last.hacked and kept != last.step:
        end = f"Stopped at step {last.step}. {_sentence(last.reason)}"
        back = "the untuned restorer" if kept == 0 else f"step {kept}, the last honest check"
        return f"{end} Kept: {back}."
    if last.hacked:
        return f"Step {last.step} was kept although it is hacked. {_sentence(last.reason)}"
    if kept != last.step:
        back = "the untuned restorer" if kept == 0 else f"step {kept}"
        return f"Ended at step {last.step}. {_sentence(last.reason)} Kept: {back}, the last honest."
    return f"Kept: step {last.step}. {_sentence(last.reason)}"


def model_card(
    checks: Sequence[Check],
    kept: int,
    how: str,
    config: str,
    *,
    images: int,
    skipped_steps: int,
    base: str = "builtin",
) -> str:
    r"""Write the model card of a run as Markdown with a YAML header.

    >>> start = Check(0, {"judge": 3.0}, 0.0, 1.0, reason="start: untuned")
    >>> end = Check(40, {"judge": 3.2}, 0.4, 0.001, {"judge": -0.2}, reason="honest: judge rose")
    >>> config = "steps: 40\n"
    >>> card = model_card([start, end], 40, "An adapter.", config, images=24, skipped_steps=0)
    >>> print("\n".join(line for line in card.splitlines() if line.startswith("|")))
    | step | judge | verdict |
    |---|---|---|
    | 0 | 3 | start |
    | 40 | 3.2 | honest |

    Args:
        checks: of the monitor, the first at step 0.
        kept: step whose weights the card describes.
        how: what the weights are and how to load them.
        config: the run's configuration as YAML, without the user's folders.
        images: number of held-out images of the monitor.
        skipped_steps: steps that changed nothing.
        base: the restorer that was tuned: ``builtin``, a hub id or a folder. Tuned weights have the
            licence of their base, so the card states one for the bundled restorer only; a hub id is
            named as ``base_model``.
    """
    licence = "license: apache-2.0" if base == "builtin" else "license: other"
    if base != "builtin" and not Path(base).exists():
        licence += f"\nbase_model: {base}"
    names = [name for name in checks[0].means if not name.startswith(STATISTIC)]
    rows = [
        f"| {check.step} | {' | '.join(f'{check.means[name]:.4g}' for name in names)} | "
        f"{check.reason.partition(':')[0]} |"
        for check in checks
    ]
    chosen = next(check for check in checks if check.step == kept)
    measured = [f"- in-sample rating: {chosen.gain:+.3f} (p = {chosen.gain_p:.2g})"]
    measured += [
        f"- {name}: {-value if EVIDENCE[name].better > 0 else value:+.4g}"
        f" ({'higher' if EVIDENCE[name].better > 0 else 'lower'} is better)"
        for name, value in chosen.worse.items()
    ]
    measured += [f"- {name}: {value:+.4g} (a statistic)" for name, value in chosen.changes.items()]
    return CARD.format(
        licence=licence,
        how=how,
        verdict=verdict(checks, kept),
        skipped_steps=skipped_steps,
        heads=" | ".join(names),
        rules="---|" * len(names),
        rows="\n".join(rows),
        measured="Changes from the untuned restorer on the held-out images:\n\n"
        + "\n".join(measured),
        images=images,
        config=config,
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
