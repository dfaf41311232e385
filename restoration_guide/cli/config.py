"""Settings of a run from the command line: defaults, then a YAML file, then options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from restoration_guide.restorers import load_restorer
from restoration_guide.search.best_of_n import BestOfN, BestOfNConfig
from zoomiqa_core.scorer import load_scorer

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """Settings that cannot be used; the message names the key."""


@dataclass(frozen=True)
class RunConfig(BestOfNConfig):
    """A search and what it is made of; ``config.yaml`` of a report holds exactly these keys."""

    restorer: str = "builtin"
    """``"builtin"``, or the folder or hub id of a diffusers pipeline."""
    prompt: str | None = None
    """Words for a pipeline that takes a prompt."""
    negative_prompt: str | None = None
    """Words for what to avoid, for a pipeline that takes them."""
    scorer: str = "proxy"
    """``"proxy"`` or the folder or hub id of a judge."""
    second: str | None = None
    """Folder, hub id or address of a second judge, who chooses among the best; None for none."""
    device: str = "cpu"
    """Where restorer and judge compute; ``"cuda"`` is each process's own GPU."""
    seed: int = 0
    """Seed of the candidates, ≥ 0."""
    threads: int | None = None
    """Threads torch computes with; None leaves torch's own choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if self.restorer == "builtin" and (self.prompt or self.negative_prompt):
            raise ValueError("the builtin restorer takes no prompt; choose a pipeline that does.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}.")

    def build(self) -> BestOfN:
        """Load the restorer and the judge."""
        settings = {
            name: getattr(self, name)
            for name in BestOfNConfig.__dataclass_fields__
            if name not in ("n", "fidelity")
        }
        words: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "device": None if self.device == "cpu" else self.device,
        }
        given = {name: value for name, value in words.items() if value is not None}
        return BestOfN(
            load_restorer(self.restorer, **given),
            load_scorer(self.scorer, device=self.device),
            self.n,
            second=None if self.second is None else load_scorer(self.second, device=self.device),
            limits=self.fidelity,
            **settings,
        )


def resolve_config(file: Path | None, options: Mapping[str, Any]) -> RunConfig:
    """The settings of a search, see :func:`merge_settings`."""
    return merge_settings(RunConfig, file, options)


def merge_settings(
    schema: type[Settings], file: Path | None, options: Mapping[str, Any]
) -> Settings:
    """Merge defaults, ``file`` and the options that were given (those that are not None).

    Args:
        schema: a dataclass of settings with defaults.
        file: YAML; None for none.
        options: by name.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value out of range.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    given = {key: value for key, value in options.items() if value is not None}
    try:
        read = OmegaConf.create() if file is None else OmegaConf.load(file)
        if not isinstance(read, DictConfig):
            raise ConfigError("expected a mapping of settings, one per line as `name: value`")
        read.pop("restorer_config", None)  # what a report says of its restorer, no setting
        merged = OmegaConf.merge(OmegaConf.structured(schema), read, given)
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        source = "" if file is None else f"{file}: "
        raise ConfigError(f"{source}{error}") from error
    return cast(Settings, config)
