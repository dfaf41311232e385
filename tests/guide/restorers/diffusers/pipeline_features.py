"""What works with which pipeline: tiny random-weight pipelines of the real diffusers classes.

For each pipeline: best of 4 with the bundled judge; candidates with the same bytes whatever their
number; previews, and candidates ended half-way whose rest stays as it was; words that change the
image; a batch that shrinks; gradients to the image and to a LoRA adapter. Each cell is measured; a
"no" is what the restorer declares, and what it does when asked all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from restoration_guide import BestOfN
from restoration_guide.restorers import Preview, Settings, candidate_generator, load_restorer
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from restoration_guide.restorers.diffusers.restorer import PipelineRestorer
from tests.guide import tiny_pipelines

SIZE = (30, 28)
"""Of the image; neither side suits a pipeline."""
FEATURES = (
    "best of N",
    "same bytes",
    "previews, ended early",
    "prompt",
    "negative prompt",
    "batch shrinks",
    "gradients: image",
    "gradients: LoRA",
)
TOLERANCE = 1e-4
"""Of a batch against single candidates: convolutions round differently."""


Candidates = dict[int, Tensor]
"""Images by index."""


class Broken(Exception):
    """A pipeline does not do what it declares."""


def check(name: str, scorer: Any = None) -> dict[str, str]:
    """The features of a tiny pipeline, each tried.

    Args:
        name: One of `tiny_pipelines.NAMES`.
        scorer: The judge of the best of N; without one that feature is left out.

    Raises:
        Broken: A feature that is declared and does not work, or works and is not declared.
    """
    pipe = tiny_pipelines.build(name)
    if name == "builtin":
        restorer = load_restorer(pipe, plan=(Settings(3, 1.0, 1.0, churn=False),))
    else:
        restorer = load_restorer(pipe, options=tiny_pipelines.options(name), plan=[{}])
    image = picture()
    found = {"class": type(pipe).__name__}
    if scorer is not None:
        result = BestOfN(restorer, scorer, n=4)(image[0], seed=0)
        _demand(len(result.candidates) == 4 and result.error is None, "4 candidates", result.error)
        found["best of N"] = "yes"
    whole = _by_index(restorer.restore(image, n=8, seed=3, batch_size=1))
    found["same bytes"] = _same_bytes(restorer, image, whole)
    found["previews, ended early"] = _ended_early(restorer, image, whole)
    if isinstance(restorer, PipelineRestorer):
        found |= _words(restorer, image)
    else:
        found |= {"prompt": "no", "negative prompt": "no"}
    found["batch shrinks"] = _shrinks(restorer, image, whole)
    found |= _gradients(restorer, image)
    return found


def picture() -> Tensor:
    """(1, 3, H, W): smooth, with some noise."""
    y, x = torch.linspace(0, 1, SIZE[0])[:, None], torch.linspace(0, 1, SIZE[1])[None]
    smooth = 0.5 + 0.3 * torch.sin(9 * x + 4 * y)
    noise = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    return (smooth + 0.03 * noise).clamp(0, 1)


def _same_bytes(restorer: Any, image: Tensor, whole: Candidates) -> str:
    """Candidates of 1, 2 and 5, in batches of 3 and 8, against those of 8, one by one."""
    _demand(len({made.numpy().tobytes() for made in whole.values()}) > 4, "candidates differ")
    for n, batch_size in ((1, 3), (2, 8), (5, 3)):
        part = _by_index(restorer.restore(image, n=n, seed=3, batch_size=batch_size))
        same = all(torch.equal(part[index], whole[index]) for index in range(n))
        _demand(same, f"the same {n} candidates")
    return "yes"


def _ended_early(restorer: Any, image: Tensor, whole: Candidates) -> str:
    """Half of four candidates end after the first step that is shown."""
    made = list(restorer.restore(image, n=4, seed=3, observer=HalfObserver()))
    _demand(len(made) == 2, "2 of 4 candidates left", len(made))
    same = all(torch.equal(left.image, whole[left.index]) for left in made)
    _demand(same, "what is left as it would have been")
    return "yes"


class HalfObserver:
    """Looks at every preview, and lets even candidates go on."""

    def __call__(self, previews: Sequence[Preview]) -> Collection[int]:
        for shown in previews:
            fits = shown.image.shape == (3, *SIZE) and bool(shown.image.isfinite().all())
            _demand(fits, "a preview on the input's grid")
        return [shown.index for shown in previews if shown.index % 2 == 0]


def _words(restorer: PipelineRestorer, image: Tensor) -> dict[str, str]:
    """Whether the prompts change the image, against what the contract says."""
    contract = restorer.contract
    (plain,) = restorer.restore(image, n=1)
    (asked,) = restorer.with_prompts("sharp").restore(image, n=1)
    (avoided,) = restorer.with_prompts("", "blur").restore(image, n=1)
    prompt = not torch.equal(plain.image, asked.image)
    negative = not torch.equal(plain.image, avoided.image)
    _demand(prompt == contract.prompt, f"prompt: {contract.prompt}", prompt)
    _demand(negative == contract.negative_prompt, f"negative: {contract.negative_prompt}", negative)
    _demand(negative or any("left out" in note for note in avoided.notes), "a note of words unused")
    return {"prompt": _yes(prompt), "negative prompt": _yes(negative)}


def _shrinks(restorer: Any, image: Tensor, whole: Candidates) -> str:
    """A batch of four of which half ends: its rows in the network, and what is left of it."""
    rows: list[int] = []
    network = _network(restorer)
    hook = network.register_forward_hook(lambda _, __, output: rows.append(len(output[0])))
    alone, restorer.group_limit = restorer.group_limit, lambda size: size  # as on an accelerator
    try:
        half = HalfObserver()
        made = list(restorer.restore(image, n=4, seed=3, batch_size=4, observer=half))
    finally:
        restorer.group_limit = alone
        hook.remove()
    error = max(float((left.image - whole[left.index]).abs().max()) for left in made)
    _demand(len(made) == 2 and error < TOLERANCE, "2 candidates as when alone", error)
    if isinstance(restorer, PipelineRestorer) and not restorer.contract.shrinks:
        _demand(len(set(rows)) == 1, "one candidate at a time", rows)
        return "no: each runs alone"
    # the bundled restorer shares the first evaluation, so that only the half is ever seen there
    half_of_rows = 2 if isinstance(restorer, BuiltinRestorer) else max(rows) / 2
    _demand(rows[-1] == half_of_rows, "half the rows after half has ended", rows)
    return "yes"


def _gradients(restorer: Any, image: Tensor) -> dict[str, str]:
    """Whether the mean of the output has a gradient on the image, and on a LoRA adapter."""
    from peft import LoraConfig, inject_adapter_in_model

    network = _network(restorer).requires_grad_(False)
    attention = any(name.endswith("to_q") for name, _ in network.named_modules())
    targets = ["to_q", "to_v"] if attention else ["conv1", "conv2"]
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=targets), network)
    adapters = [weight for weight in network.parameters() if weight.requires_grad]
    image = image.clone().requires_grad_()
    generators = [candidate_generator(0, 0)]
    if isinstance(restorer, BuiltinRestorer):
        pipe, call = restorer.pipe, vars(type(restorer.pipe))["__call__"].__wrapped__
        made = call(pipe, image, 2, generator=generators, output_type="pt").images
    else:
        made = restorer.adapter.call(image, {}, generators, grad=True)
    grads = torch.autograd.grad(made.mean(), [image, *adapters], allow_unused=True)
    sizes = [0.0 if grad is None else float(grad.abs().sum()) for grad in grads]
    _demand(sizes[0] > 0 and sum(sizes[1:]) > 0, "gradients that are not zero", sizes[:2])
    return {"gradients: image": "yes", "gradients: LoRA": "yes"}


def _network(restorer: Any) -> torch.nn.Module:
    pipe = restorer.pipe if isinstance(restorer, BuiltinRestorer) else restorer.adapter.pipe
    return getattr(pipe, "unet", None) or pipe.transformer


def _by_index(candidates: Any) -> Candidates:
    return {made.index: made.image for made in candidates}


def _demand(holds: bool, expected: str, came: object = "") -> None:
    if not holds:
        raise Broken(f"expected {expected}" + (f", got {came}" if came != "" else ""))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def as_markdown(rows: Sequence[dict[str, str]]) -> str:
    """The table of docs/restorers.md."""
    columns = ("class", *FEATURES)
    lines = [columns, tuple("---" for _ in columns)]
    lines += [tuple(row.get(column, "") for column in columns) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
