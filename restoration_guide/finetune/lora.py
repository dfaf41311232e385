"""The trained weights: low-rank adapters in a network (LoRA, through PEFT), or all its weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoomiqa_core.training.policy import LoraSettings

INNER_LAYERS = r"(?!(conv_out|proj_out|norm_out\.linear)$).*"
"""All convolutions and linear layers but the network's output layers: an adapter there moves every
pixel alike, and pixel-shuffled outputs turn it into a checkerboard artefact."""


def adapted_layers(network: nn.Module, targets: str = INNER_LAYERS) -> list[str]:
    """Names of the convolutions and linear layers that the regular expression matches.

    >>> network = nn.ModuleDict({"conv_in": nn.Conv2d(3, 8, 3), "conv_out": nn.Conv2d(8, 3, 3)})
    >>> adapted_layers(network)
    ['conv_in']

    Raises:
        ValueError: it matches none.
    """
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    matching = [name for name in layers if re.fullmatch(targets, name)]
    if not matching:
        raise ValueError(
            f"the targets {targets!r} match none of the {len(layers)} convolutions and linear "
            f"layers, such as {layers[:3]}"
        )
    return matching


class TunedNetwork:
    """A network that is trained in place, with its frozen reference.

    With a rank, adapters are put into the network, everything else is frozen, and the reference is
    the network with its adapters switched off: it costs no memory. With rank 0 all weights are
    trained, and the reference is a copy of them. Weights in bfloat16 have float32 masters, which
    the optimiser updates: small updates would round to nothing otherwise.

    >>> tuned = TunedNetwork(nn.Sequential(nn.Linear(4, 4)), LoraSettings(2, 4, INNER_LAYERS))
    >>> [tuple(parameter.shape) for parameter in tuned.parameters]
    [(2, 4), (4, 2)]

    Args:
        network: e.g. a pipeline's UNet; changed in place.
        settings: rank, scale and layers; rank 0 for full weights.
        seed: of the adapters' initial weights. A new adapter changes nothing.

    Raises:
        ValueError: rank 0 with float16 weights, whose gradients underflow.
    """

    def __init__(self, network: nn.Module, settings: LoraSettings, *, seed: int = 0) -> None:
        self.network = network
        self.peft: Any = None
        if settings.rank:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                target_modules=adapted_layers(network, settings.targets),
            )
            with torch.random.fork_rng():  # PEFT draws from the global generator
                self.peft = get_peft_model(network, config)  # pyright: ignore[reportArgumentType]
            generator = torch.Generator().manual_seed(seed)
            for name, parameter in network.named_parameters():
                if ".lora_A." in name:  # as PEFT draws them; .lora_B. starts at 0
                    nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
        else:
            if any(p.dtype == torch.float16 for p in network.parameters()):
                raise ValueError(
                    "rank 0 trains all weights, and gradients of float16 weights underflow: load "
                    "the network in bfloat16 or float32 (pipeline.dtype=bfloat16), or train "
                    "adapters (lora.rank=8), which are float32"
                )
            network.requires_grad_(True)
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        """The network's weights in training."""
        self.masters: list[Tensor] = [
            p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters
        ]
        """The same in float32, for the optimiser; the parameters themselves where they are."""
        self._before = [] if settings.rank else [p.detach().clone() for p in self.parameters]

    def from_masters(self) -> None:
        """Round the masters to the network's weights; called after every optimiser step."""
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if parameter is not master:
                    parameter.copy_(master)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside the block the network is the frozen reference; without gradients."""
        with torch.no_grad():
            if self.peft is not None:
                with self.peft.disable_adapter():
                    yield
                return
            with self.use_weights(self._before):
                yield

    @contextmanager
    def use_weights(self, values: list[Tensor]) -> Iterator[None]:
        """Inside the block the trained weights have these values; without gradients."""
        trained = [parameter.data for parameter in self.parameters]
        try:
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.data = value.to(parameter.device, parameter.dtype)
            with torch.no_grad():
                yield
        finally:
            for parameter, data in zip(self.parameters, trained, strict=True):
                parameter.data = data

    def scaled(self, values: list[Tensor], merge_scale: float) -> list[Tensor]:
        """Weights whose change of the network is ``merge_scale`` times that of ``values``.

        An adapter's change is the product of two matrices, of which the second alone is scaled.
        """
        if merge_scale == 1:
            return values
        if self.peft is None:
            pairs = zip(self._before, values, strict=True)
            return [before.to(value).lerp(value, merge_scale) for before, value in pairs]
        pairs = zip(self.names, values, strict=True)
        return [value * merge_scale if ".lora_B." in name else value for name, value in pairs]

    def state(self) -> dict[str, Tensor]:
        """The trained weights by name, in float32, copied to the CPU."""
        named = zip(self.names, self.masters, strict=True)
        return {name: p.detach().to("cpu", copy=True) for name, p in named}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the weights of :meth:`state`.

        Raises:
            ValueError: they are not this network's trained weights.
        """
        if set(state) != set(self.names):
            odd = sorted(set(state) ^ set(self.names))[:3]
            raise ValueError(f"these are weights of another adapter: {odd} … are in one alone")
        with torch.no_grad():
            for name, master in zip(self.names, self.masters, strict=True):
                master.copy_(state[name])
        self.from_masters()

    def merged(self) -> nn.Module:
        """A copy of the network with the adapters merged into its weights."""
        if self.peft is None:
            return copy.deepcopy(self.network)
        return copy.deepcopy(self.peft).merge_and_unload()

    def lora_layers(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The adapter's weights and configuration, named as diffusers names them.

        Raises:
            ValueError: full weights were trained, so there is no adapter.
        """
        from peft import get_peft_model_state_dict

        if self.peft is None:
            raise ValueError("rank 0 trains the whole network: it has no adapter")
        prefix = "base_model.model."
        state = get_peft_model_state_dict(self.peft)
        layers = {name.removeprefix(prefix): value for name, value in state.items()}
        return layers, self.peft.peft_config["default"].to_dict()

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's format; ``PeftModel.from_pretrained(network, folder)``.

        Raises:
            ValueError: full weights were trained, so there is no adapter; save the network.
        """
        if self.peft is None:
            raise ValueError("rank 0 trains the whole network: save that, it has no adapter")
        self.peft.save_pretrained(str(folder), safe_serialization=True)
