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
from zoomiqa_core.training.resampling import ResamplingMixin
from zoomiqa_core.training.rewards import RewardConfig, reward_functions
from zoomiqa_core.training.zoom_rollouts import (
    draw_replies,
    fold,
    images_per_round,
    read_replies,
    render,
    unfold,
)
from zoomiqa_core.zoom_iqa.chain import Chain, Request
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
    _model_mask: Tensor | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        pictures = {
            x["image_id"]: x["images"][0] for x in inputs
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
        output = super()._generate_and_score_completions(inputs)
        if "pixel_values" not in output or "tool_mask" not in output:
            raise RuntimeError("TRL dropped the images of the batch or the mask of the rounds")
        output["rating_mask"] = self._rating_mask(output)
        return output

    def _tool_call_loop(
        self, prompts, prompt_ids, completion_ids, completions, logprobs, images, multimodal_fields
    ):
        """Generate the later rounds, with the arguments and return values of TRL's own loop.

        All processes call the generation equally often, even without roll-outs to continue: under
        FSDP and ZeRO-3 a call is collective and would block if a process made none.
        """
        rows = [list(ids) for ids in completion_ids]
        model_mask = [[1] * len(ids) for ids in rows]
        drawn = None if logprobs is None else [list(row) for row in logprobs]
        extra_images: list[list[Any]] = [[] for _ in rows]
        zooms = 0
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
                extra_images[n] += requests[index].images
                if drawn is not None:
                    drawn[n] += [*[0.0] * len(asked[index]), *log_probs[index]]
            read_replies([self._chains[n] for n in waiting], replies, self._tokenizer)
            zooms += len(waiting)
        self._model_mask = _padded(model_mask)
        turns = [
            [{"role": "assistant", "content": round_.text} for round_ in chain.rounds]
            for chain in self._chains
        ]
        return model_mask, turns, rows, drawn, zooms, 0, extra_images

    def _anywhere(self, here: bool) -> bool:
        """Whether ``here`` is true on any process."""
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _answer(self, requests: Sequence[Request]) -> tuple[list[list[int]], Any, Any]:
        """Tokens of the requests and of their replies, and the replies' log-probabilities."""
        asked = [render(request, self.processing_class) for request in requests]
        replies, log_probs = self._generate_single_turn(
            [prompt.ids for prompt in asked],
            [list(request.images) for request in requests],
            {name: torch.cat([p.inputs[name] for p in asked]) for name in asked[0].inputs},
            num_generations=1,
            has_tool_images=True,
        )
        return [prompt.ids for prompt in asked], replies, log_probs

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
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if pixel_values is None or image_grid_thw is None or self._model_mask is None:
            raise RuntimeError(
                "the batch has no images: TRL drops all of them when the image tokens of one row "
                "do not match"
            )
        config = self.accelerator.unwrap_model(model).config
        own = self._model_mask.to(input_ids.device)
        start = input_ids.shape[1] - logits_to_keep
        rounds = unfold(input_ids, attention_mask, own, start, self._tokenizer.pad_token_id)
        image_id, merge = config.image_token_id, config.vision_config.spatial_merge_size
        counts = images_per_round(rounds.spans, input_ids, image_grid_thw, image_id, merge)
        log_probs, entropies, aux = super()._get_per_token_logps_and_entropies(
            model,
            rounds.input_ids,
            rounds.attention_mask,
            rounds.length,
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            compute_aux_loss=compute_aux_loss,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            num_images=counts,
            mm_token_type_ids=(rounds.input_ids == image_id).long(),
        )
        shape = len(input_ids), start, logits_to_keep
        folded = fold(log_probs, rounds, *shape)
        return folded, None if entropies is None else fold(entropies, rounds, *shape), aux

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._model_mask = inputs["tool_mask"] * inputs["completion_mask"]
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
            self.tools = _Rounds()
            unwrapped = self.accelerator.unwrap_model(self.model)
            banned = family_of(unwrapped, self.processing_class).control_ids
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
