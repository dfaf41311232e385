"""What chains and the expected rating cost on a Zoom-IQA model, as ratios within one run.

    python -m benchmarks.judge_cost [--device cuda --dtype bfloat16] [--tokens 192]

The model is of the real classes with random weights (``zoomiqa_core.training.tiny_vlm``), its size
set on the command line (default: over 50 million parameters), and made to answer final or crop;
every round writes ``--tokens`` tokens. One chain is the mean of K calls of one chain each, with the
seeds of the K chains that are then run together, so that both do the same work; chains that zoom
share nothing in their second round. Also printed: the largest difference between log-probabilities
at generation and in a teacher-forced pass.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.damaged_photos import centre_crop
from zoomiqa_core.assessment import Assessment, Chains
from zoomiqa_core.images.sources import read_image, to_pil
from zoomiqa_core.training.tiny_vlm import TinySize, build_tiny_vlm, teach_replies
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.sampling import Sampling

REPLIES = {
    f"</think>{format_answer(2.31, (0.1, 0.2, 0.6, 0.7))}": 4.5,
    f"</think>{format_answer(3.57)}": 4.0,
}
"""Each is one token among some 700; a reply nearly always holds one, and the last decides."""


def build_judge(options: argparse.Namespace) -> ZoomIQA:
    """The model of the wanted size, whose replies never end early."""
    size = TinySize(
        hidden=options.hidden,
        layers=options.layers,
        heads=options.hidden // 64,
        vision_hidden=options.hidden // 2,
        vision_layers=8,
        vision_heads=options.hidden // 128,
        max_pixels=512 * 512,
    )
    model, processor = build_tiny_vlm(size, seed=options.seed)
    teach_replies(model, processor, REPLIES, end=-1e4)
    model = model.to(options.device, getattr(torch, options.dtype))
    backend = LocalVLM(
        model,
        processor,
        sampling=Sampling(max_new_tokens=options.tokens),
        batch_size=options.chains,
        min_digit_mass=0.0,
        name=f"random, {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters",
    )
    return ZoomIQA(backend, BUILTIN, JudgeConfig(seed=options.seed, retries=0))


def compare(
    judge: ZoomIQA, image: Any, options: argparse.Namespace
) -> tuple[list[tuple[float, Assessment]], float, Assessment]:
    """Each of the K chains alone (seconds, result); all together: seconds, result."""
    generator = torch.Generator().manual_seed(options.seed)
    alone = [
        measure(lambda: judge.assess(image, samples=1, generator=generator), options.device)
        for _ in range(options.chains)
    ]
    generator = torch.Generator().manual_seed(options.seed)
    together, said = measure(
        lambda: judge.assess(image, samples=options.chains, generator=generator), options.device
    )
    return alone, together, said


def measure(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds, and what the call returns."""
    start = time.perf_counter()
    result = call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def log_probability_difference(judge: ZoomIQA, image: Any) -> float:
    """Largest |log-probability when generated − in one pass over prompt and reply|."""
    backend: Any = judge.backend
    request = Chain(image, judge.prompts, judge.prompts.questions[0]).request
    if request is None:
        return float("nan")
    (reply,) = backend.generate([request])
    tokenizer, model = backend.processor.tokenizer, backend.model
    text = backend.processor.apply_chat_template(
        request.messages, tokenize=False, add_generation_prompt=True
    )
    inputs = backend.processor(text=[text], images=[image], return_tensors="pt")
    prompt = inputs.pop("input_ids")
    ids = torch.cat([prompt, torch.tensor([reply.ids])], 1).to(model.device)
    inputs["attention_mask"] = torch.ones_like(ids)
    inputs["mm_token_type_ids"] = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, **inputs.to(model.device)).logits[0].float()
    forced = logits[prompt.shape[1] - 1 : -1].log_softmax(-1)
    forced = forced.gather(-1, ids[0, prompt.shape[1] :, None])[:, 0].cpu()
    return float((forced - torch.tensor(reply.log_probs)).abs().max())


def main() -> None:
    """Measure, print, write."""
    parser = tables.arguments(
        __doc__,
        out="runs/judge_cost.json",
        image="restoration_guide/demo/photo.jpg",
        side=384,
        hidden=640,
        layers=12,
        chains=8,
        tokens=192,
        device="cpu",
        dtype="float32",
        threads=1,
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    judge = build_judge(options)
    pixels = read_image(options.image).pixels
    side = min(options.side, *pixels.shape[-2:])
    image = to_pil(centre_crop(pixels, side, side))
    judge.assess(image, mode="expected")  # warm-up

    alone, together, said = compare(judge, image, options)
    judge.config = replace(judge.config, max_rounds=1)
    one_round_alone, one_round_together, _ = compare(judge, image, options)
    expected, _ = measure(lambda: judge.assess(image, mode="expected"), options.device)
    chains = said.chains or Chains()
    one = fmean(seconds for seconds, _ in alone)
    zoomed = [s for s, one in alone if one.chains and len(one.chains.rounds) == 2]
    two_rounds = fmean(zoomed) if zoomed else float("nan")
    one_round = fmean(seconds for seconds, _ in one_round_alone)
    figures = {
        "chains": options.chains,
        "s, one chain (mean)": one,
        "s, all chains together": together,
        "together / one": together / one,
        "together / one that zooms": together / two_rounds,
        "together / one, a single round": one_round_together / one_round,
        "s, expected rating": expected,
        "expected / one that zooms": expected / two_rounds,
        "chains that zoomed": len(zoomed),
        "chains that gave no rating": len(chains.errors),
        "tokens written together": chains.tokens,
        "same ratings": chains.ratings == tuple(s.rating for _, s in alone if s.valid),
        "largest difference of log-probabilities": log_probability_difference(judge, image),
        "peak memory, MiB": peak_memory(options.device),
    }
    rows = ([name, format(float(value), ".4g")] for name, value in figures.items())
    text = f"{judge.name}, {side}² image\n\n" + tables.table(["measure", "value"], rows)
    tables.finish(options, text, figures=figures)


def peak_memory(device: str) -> float:
    """Of the GPU, or of this process, in MiB."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
