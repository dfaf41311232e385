"""The model card of a fine-tuned restorer: what was kept, why, and what the monitor saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from restoration_guide.finetune.monitor import EVIDENCE, Check

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

Means over the same held-out images at every check. *rating* is the judge of the reward, so it
proves nothing; the others are evidence that judge knows nothing of (a run may have been trained on
some of them too, on other photos).

## Measured

{measured}

## Limits

A gain of the training judge alone is no gain. The monitor looks at {images} images and at
statistics that are known to give way; what it does not look at it cannot see.

## Configuration

Without the folders of data and results:

```yaml
{config}```
"""


def verdict(checks: Sequence[Check], kept: int) -> str:
    """Why the run ended as it did, in words."""
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
    """The card.

    Args:
        checks: the monitor's looks, the first at step 0.
        kept: step whose weights the card belongs to.
        how: what the weights are and what loads them, in words.
        config: the run's, as YAML, without the user's folders.
        images: how many the monitor looked at.
        skipped_steps: steps that changed nothing.
        base: the restorer that was tuned: ``builtin``, a hub id or a folder. What is tuned has the
            licence of its base, so the card states one of the bundled restorer alone, and names a
            base that others can find.
    """
    licence = "license: apache-2.0" if base == "builtin" else "license: other"
    if base != "builtin" and not Path(base).exists():
        licence += f"\nbase_model: {base}"
    names = list(checks[0].means)
    rows = [
        f"| {check.step} | {' | '.join(f'{check.means[name]:.4g}' for name in names)} | "
        f"{check.reason.partition(':')[0]} |"
        for check in checks
    ]
    own = next(check for check in checks if check.step == kept)
    measured = [f"- training judge: {own.gain:+.3f} rating (p = {own.gain_p:.2g})"]
    measured += [
        f"- {name}: {-value if EVIDENCE[name].better > 0 else value:+.4g}"
        f" ({'higher' if EVIDENCE[name].better > 0 else 'lower'} is better)"
        for name, value in own.worse.items()
    ]
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
