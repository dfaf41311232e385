"""GRPO for a judge that zooms (Zoom-IQA's second stage, arXiv 2601.02918), on TRL's trainer.

``ZoomGRPOTrainer`` is a ``trl.GRPOTrainer`` whose roll-outs are chains
(:class:`zoomiqa_core.zoom_iqa.chain.Chain`), the state machine of the judge itself: same prompts,
same parser, same crop. Only tokens that the model wrote, in any round, are trained.

**Context.** TRL continues one conversation; the judge begins a new one for each later round. Rows
are laid out and scored so that contexts in training equal the judge's, token for token
(:mod:`zoomiqa_core.training.zoom_rollouts`). Three differences remain: the judge samples with its
``Sampling`` (top-p .95 and top-k 50 by default), training from the full distribution, whose
log-probabilities it needs; the judge retries a reply that cannot be parsed, training does not; and
the end token is part of the row and trained, while the judge removes it.

Settings with which TRL would silently train on something else raise an error:
:func:`check_settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoomiqa_core.training.kl_coverage import (
    KLCoverageConfig,
    KLCoverageMixin,
    rating_positions,
)
from zoomiqa_core.training.policy import hold_batch_norms, is_sharded
from zoomiqa_core.training.resampling import ResamplingMixin
from zoomiqa_core.training.rewards import RewardConfig, reward_functions
from zoomiqa_core.training.rollout_images import RolloutImages
from zoomiqa_core.training.zoom_rollouts import (
    draw_replies,
    fold,
    read_replies,
    unfold,
)
from zoomiqa_core.zoom_iqa.chain import Chain, Request
from zoomiqa_core.zoom_iqa.local.families.base import ImageInputs
from zoomiqa_core.zoom_iqa.local.families.registry import family_of
from zoomiqa_core.zoom_iqa.prompts import BUILTIN, Prompts
from zoomiqa_core.zoom_iqa.protocol import MAX_ROUNDS
from zoomiqa_core.zoom_iqa.sampling import Sampling

Base: Any = object  # GRPOTrainer, which is imported only when the trainer class is created

Generation = Literal["judge", "transformers"]


def check_settings(args: Any) -> None:
    """Check that a ``GRPOConfig`` is valid for roll-outs that zoom.

    >>> from types import SimpleNamespace
    >>> check_settings(SimpleNamespace(temperature=0.7))
    Traceback (most recent call last):
    ValueError: temperature must be 1.0, got 0.7: ...

    Raises:
        ValueError: names the setting and the reason.
    """
    exact = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    for name, value in exact.items():
        if getattr(args, name) != value:
            raise ValueError(
                f"{name} must be {value}, got {getattr(args, name)}: tokens of a modified "
                "distribution have other log-probabilities than the training computes"
            )
    if args.loss_type != "dapo":
        raise ValueError(
            f"loss_type must be 'dapo', got {args.loss_type!r}: the KL-Coverage term is normalised "
            "as in dapo"
        )
    if args.mask_truncated_completions:
        raise ValueError(
            "mask_truncated_completions must be False: it hides image tokens from the attention "
            "and shifts all positions after them. A truncated roll-out cannot be parsed and gets "
            "no reward anyway"
        )
    if args.use_vllm:
        raise ValueError(
            "use_vllm is not supported: it cannot ban the vision tokens, which a reply must not "
            "contain. Generate with transformers (use_vllm=False)"
        )
    together = args.steps_per_generation * args.num_iterations
    steps = args.save_steps * args.gradient_accumulation_steps
    if args.save_strategy == "steps" and steps % together:
        raise ValueError(
            f"save_steps · gradient_accumulation_steps ({steps:g}) must be a multiple of the steps "
            f"that share roll-outs ({together}), or a resumed run would sample different ones"
        )


class ZoomRolloutMixin(Base):
    """Roll-outs of several rounds for a ``GRPOTrainer``."""

    prompts = BUILTIN
    max_rounds = MAX_ROUNDS
    generation: Generation = "judge"
    _chains: Sequence[Chain] = ()
    _images: RolloutImages
    _model_mask: Tensor | None = None
    _scored_rollouts: Sequence[int] = ()
    """Which roll-out each row is that is scored now."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        pictures = {
            x["image_id"]: x["picture"] for x in inputs
        }  # one object per image, so that it is encoded once
        seeds = torch.randint(
            2**62, (len(inputs),)
        ).tolist()  # from the global generator, whose state checkpoints save
        self._chains = [
            Chain(
                pictures[x["image_id"]],
                self.prompts,
                x["question"],
                seed=seed,
                max_rounds=self.max_rounds,
                retries=0,
            )
            for x, seed in zip(inputs, seeds, strict=True)
        ]
        family = family_of(_base_of(self.accelerator, self.model), self.processing_class)
        self._images = RolloutImages(family, whole=not is_sharded(self.accelerator))
        output = super()._generate_and_score_completions(inputs)
        output["rollout"] = torch.arange(len(inputs), device=output["completion_ids"].device)
        output["rating_mask"] = self._rating_mask(output)
        return output

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Tokens of the first round, as the judge's; TRL's prompts are the chains', in order."""
        requests = [request for chain in self._chains if (request := chain.request)]
        return self._rendered(requests)

    def _tool_call_loop(
        self, prompts, prompt_ids, completion_ids, completions, logprobs, images, multimodal_fields
    ):
        """Generate the later rounds, with the arguments and return values of TRL's own loop.

        TRL knows of no images: it would prepare them for one conversation per row.

        All processes call the generation equally often, even without roll-outs to continue: under
        FSDP and ZeRO-3 a call is collective and would block if a process made none.
        """
        rows = [list(ids) for ids in completion_ids]
        model_mask = [[1] * len(ids) for ids in rows]
        drawn = None if logprobs is None else [list(row) for row in logprobs]
        zooms = 0
        for n, chain in enumerate(self._chains):
            if request := chain.request:
                self._images.add(n, request)
        read_replies(self._chains, rows, self._tokenizer)
        for _ in range(self.max_rounds - 1):
            waiting = [n for n, chain in enumerate(self._chains) if chain.request]
            if not self._anywhere(bool(waiting)):
                break
            if not waiting:
                first = Chain(self._chains[0].image, self.prompts, self._chains[0].question)
                if self.generation == "transformers" and first.request:
                    self._answer([first.request])  # takes part in the others' call
                continue
            requests = [request for n in waiting if (request := self._chains[n].request)]
            asked, replies, log_probs = self._answer(requests)
            for index, n in enumerate(waiting):
                rows[n] += [*asked[index], *replies[index]]
                model_mask[n] += [0] * len(asked[index]) + [1] * len(replies[index])
                self._images.add(n, requests[index])
                if drawn is not None:
                    drawn[n] += [*[0.0] * len(asked[index]), *log_probs[index]]
            read_replies([self._chains[n] for n in waiting], replies, self._tokenizer)
            zooms += len(waiting)
        self._model_mask = _padded(model_mask)
        self._scored_rollouts = list(range(len(rows)))
        turns = [
            [{"role": "assistant", "content": round_.text} for round_ in chain.rounds]
            for chain in self._chains
        ]
        return model_mask, turns, rows, drawn, zooms, 0, []

    def _anywhere(self, here: bool) -> bool:
        """Whether ``here`` is true on any process."""
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _answer(self, requests: Sequence[Request]) -> tuple[list[list[int]], Any, Any]:
        """Tokens of the requests and of their replies, and the replies' log-probabilities."""
        asked, _, fields = self._rendered(requests)
        return asked, *self._generate_single_turn(asked, None, fields, 1)

    def _rendered(self, requests: Sequence[Request]) -> tuple[list[list[int]], None, Any]:
        """Tokens of the requests and, where ``generate`` runs, their images as its arguments."""
        asked = [self._images.tokens(request) for request in requests]
        if self.generation == "judge":
            return asked, None, {}
        family = self._images.family
        fields = family.pixel_arguments([self._images.prepare(request) for request in requests])
        types = [family.token_types(torch.tensor([ids])) for ids in asked]
        rows = {name: [row[name][0].tolist() for row in types] for name in types[0]}
        return asked, None, {**fields, **rows}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """Replies to the open requests of the chains, which are TRL's prompts in the same order."""
        if self.generation == "transformers":
            return super()._generate_single_turn(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        requests = [request for chain in self._chains if (request := chain.request)]
        sampling = Sampling(1.0, top_p=1.0, top_k=0, max_new_tokens=self.max_completion_length)
        return draw_replies(model, self.processing_class, requests, sampling), None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's function for rows of several rounds, each scored in its own context."""
        if self._model_mask is None:
            raise RuntimeError("TRL scored tokens before it generated any")
        own = self._model_mask.to(input_ids.device)
        start = input_ids.shape[1] - logits_to_keep
        rounds = unfold(input_ids, attention_mask, own, start, self._tokenizer.pad_token_id)
        images = self._images.of_rounds(rounds.spans, self._scored_rollouts, input_ids)
        log_probs, entropies, aux_losses = [], [], []
        for first in range(0, len(images), batch_size or len(images)):
            part = slice(first, first + (batch_size or len(images)))
            out = self._score_rounds(
                model,
                rounds.input_ids[part],
                rounds.attention_mask[part],
                rounds.length,
                images[part],
                compute_aux_loss,
            )
            log_probs.append(out.log_probs[:, -rounds.length :])
            entropies.append(out.entropy[:, -rounds.length :] if compute_entropy else None)
            aux_losses.append(out.aux_loss if compute_aux_loss else None)
        shape = len(input_ids), start, logits_to_keep
        return (
            fold(torch.cat(log_probs), rounds, *shape),
            fold(torch.cat(entropies), rounds, *shape) if compute_entropy else None,
            torch.stack(aux_losses).mean() if compute_aux_loss else None,
        )

    def _score_rounds(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        length: int,
        images: Sequence[Sequence[ImageInputs]],
        router: bool,
    ) -> Any:
        """Log-probabilities and entropies of the last ``length`` tokens of single rounds."""
        family = self._images.family
        flat = [image for images in images for image in images]
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-length] = -100
        with self.accelerator.autocast():
            return model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=family.position_ids(ids, mask, flat),
                labels=labels,
                fused_lm_head=True,
                **family.token_types(ids),
                **self._images.arguments(images),
                **({"output_router_logits": True} if router else {}),
            )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._model_mask = inputs["tool_mask"] * inputs["completion_mask"]
        self._scored_rollouts = inputs["rollout"].tolist()
        return super()._compute_loss(model, inputs)

    def _rating_mask(self, output: dict[str, Any]) -> Tensor:
        """(B, C) mask, 1 on tokens that are part of a rating."""
        own, ids = output["tool_mask"] * output["completion_mask"], output["completion_ids"]
        marks = torch.zeros_like(ids)
        for row in range(len(ids)):
            pieces = self._tokenizer.convert_ids_to_tokens(ids[row].tolist())
            edges = own[row].diff(prepend=own.new_zeros(1), append=own.new_zeros(1))
            starts, ends = ((edges == step).nonzero()[:, 0].tolist() for step in (1, -1))
            for start, end in zip(starts, ends, strict=True):
                marks[row, start:end] = marks.new_tensor(rating_positions(pieces[start:end]))
        return marks


class _Rounds(list):
    """Stand-in for TRL's list of tools.

    It is true, so that TRL calls the tool loop, which generates the later rounds; it is empty, so
    that chat templates add no tools to the prompt.
    """

    def __bool__(self) -> bool:
        return True


def _base_of(accelerator: Any, model: Any) -> Any:
    """The model itself, without the wrappers of distributed training and of adapters."""
    from peft import PeftModel

    model = accelerator.unwrap_model(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _padded(masks: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, masks))
    return torch.tensor([[*mask, *[0] * (width - len(mask))] for mask in masks])


def _make_trainer() -> type:
    from trl import GRPOTrainer

    class ZoomGRPOTrainer(KLCoverageMixin, ZoomRolloutMixin, ResamplingMixin, GRPOTrainer):
        """GRPO with roll-outs that zoom.

        Args:
            model: the policy, or its folder.
            args: ``GRPOConfig``; see :func:`check_settings`. ``max_completion_length`` bounds one
                reply. ``reward_weights`` is set from ``rewards``.
            train_dataset: from :func:`zoomiqa_core.training.rows.rollout_dataset`.
            processing_class: the processor, padding on the left.
            rewards: terms and weights.
            kl_coverage: settings of the KL-Coverage term.
            resampling: balance the ratings over the training
                (:mod:`zoomiqa_core.training.resampling`).
            prompts: the prompt texts of the dataset.
            max_rounds: most rounds of a roll-out.
            generation: ``judge`` uses the judge's decoding, which processes a prompt once for all
                its roll-outs; ``transformers`` uses ``generate``, as DeepSpeed's ZeRO-3 and FSDP
                require.
            kwargs: see ``GRPOTrainer``.

        Raises:
            ValueError: a setting that cannot be used, or a model without trainable parameters.
        """

        def __init__(
            self,
            model: Any,
            args: Any,
            train_dataset: Any,
            processing_class: Any,
            *,
            rewards: RewardConfig | None = None,
            kl_coverage: KLCoverageConfig | None = None,
            resampling: bool = True,
            prompts: Prompts = BUILTIN,
            max_rounds: int = MAX_ROUNDS,
            generation: Generation = "judge",
            **kwargs: Any,
        ) -> None:
            check_settings(args)
            rewards = rewards or RewardConfig()
            args.reward_weights = rewards.weights
            self.prompts, self.max_rounds, self.generation = prompts, max_rounds, generation
            self.kl_coverage = kl_coverage or KLCoverageConfig()
            self.resampling = resampling
            super().__init__(
                model,
                reward_functions(rewards, max_rounds),
                args,
                train_dataset,
                processing_class=processing_class,
                **kwargs,
            )
            if not any(p.requires_grad for p in self.model.parameters()):
                raise ValueError(
                    "no parameter is trainable: load a LoRA adapter with is_trainable=True, or "
                    "pass peft_config"
                )
            hold_batch_norms(self.model)
            self.tools = _Rounds()
            unwrapped = _base_of(self.accelerator, self.model)
            family = family_of(unwrapped, self.processing_class)
            if not family.encodes_once:
                raise ValueError(
                    f"GRPO needs a family in zoom_iqa/local/families, and "
                    f"{unwrapped.config.model_type} has none; supervised fine-tuning is possible"
                )
            banned = family.control_ids
            self.generation_kwargs["suppress_tokens"] = banned
            self.generation_config.suppress_tokens = banned

    ZoomGRPOTrainer.__qualname__ = "ZoomGRPOTrainer"
    return ZoomGRPOTrainer


def __getattr__(name: str) -> Any:
    """Create ``ZoomGRPOTrainer`` on first use, since it imports TRL."""
    if name == "ZoomGRPOTrainer":
        globals()[name] = _make_trainer()
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
