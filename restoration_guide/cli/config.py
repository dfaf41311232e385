"""Settings of a run from the command line: defaults, then a YAML file, then options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.verdict import GateConfig
from restoration_guide.report.folder import NOT_IN_FILE
from restoration_guide.restorers import load_restorer
from restoration_guide.search.best_of_n import BestOfN, BestOfNConfig
from zoomiqa_core.cli.options import JudgeOptions, SeededJudgeOptions, stop
from zoomiqa_core.scorer import load_scorer

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """Settings that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class RunConfig(BestOfNConfig):
    """A search and what it is made of; ``config.yaml`` of a report holds exactly these keys."""

    restorer: str = "builtin"
    """``"builtin"``, or the folder or hub id of a diffusers pipeline."""
    prompt: str | None = None
    """Prompt of a pipeline that takes one."""
    negative_prompt: str | None = None
    """Negative prompt of a pipeline that takes one."""
    restorer_config: Any = None
    """Further arguments of :func:`~restoration_guide.restorers.load_restorer` (``plan``,
    ``options``, ``tile``), as a report records them; ``prompt`` and ``negative_prompt`` win."""
    scorer: str = "proxy"
    """Name of the judge, see :func:`~zoomiqa_core.scorer.load_scorer`."""
    second: str | None = None
    """Name of a second judge, which chooses among the best; None for none."""
    device: str = "cpu"
    """Where restorer and judges compute; ``"cuda"`` is each process's own GPU."""
    seed: int = 0
    """Seed of the candidates, ≥ 0."""
    max_megapixels: float | None = None
    """Largest image that is read, in millions of pixels; None for the restorer's own limit."""
    bits: int = 8
    """Bits per channel of the chosen picture, 8 or, of a PNG, 16."""
    threads: int | None = None
    """Number of torch threads; None leaves torch's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}.")
        if self.restorer == "builtin" and (self.prompt or self.negative_prompt):
            raise ValueError("the builtin restorer takes no prompt; choose a pipeline that does.")
        if self.bits not in (8, 16):
            raise ValueError(f"bits must be 8 or 16, got {self.bits}.")
        for name, value in _described(self.restorer_config, "restorer_config"):
            raise ValueError(f"{name} is {value}: search in Python, where it can be given.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}.")

    def build(self) -> BestOfN:
        """Load the restorer and the judges."""
        settings = {
            each.name: getattr(self, each.name)
            for each in fields(BestOfNConfig)
            if each.name not in ("n", "fidelity")
        }
        prompts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        options: dict[str, Any] = dict(self.restorer_config or {})
        options |= {name: value for name, value in prompts.items() if value is not None}
        if self.device != "cpu":
            options["device"] = self.device
        restorer = load_restorer(self.restorer, **options)
        if self.max_megapixels is not None:
            most = round(self.max_megapixels * 1e6)
            restorer.limits = replace(restorer.limits, max_pixels=most)
        return BestOfN(
            restorer,
            load_scorer(self.scorer, device=self.device),
            self.n,
            second=None if self.second is None else load_scorer(self.second, device=self.device),
            limits=self.fidelity,
            **settings,
        )


@dataclass(frozen=True)
class GateRunConfig(SeededJudgeOptions, GateConfig):
    """Settings of ``restoration-guide gate``: the gate's and the judge's."""

    second: str | None = None
    """Name of a second judge with a veto; it judges with its own defaults."""
    fidelity: FidelityLimits = field(default_factory=FidelityLimits)
    """Fidelity limits."""
    max_megapixels: float | None = None
    """Largest image that is read, in millions of pixels; None for 64."""

    def build(self) -> QualityGate:
        """Load the judges."""
        second = None if self.second is None else JudgeOptions(self.second, self.device).load()
        return QualityGate(
            self.load(),
            self.min_rating,
            second=second,
            confidence=self.confidence,
            min_gain=self.min_gain,
            limits=self.fidelity,
        )


def _described(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Settings that a report could only describe, with their dotted names."""
    if isinstance(value, str) and value.startswith(NOT_IN_FILE):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _described(item, f"{name}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _described(item, f"{name}.{index}")


def resolve_config(
    schema: type[Settings], file: Path | None, options: Mapping[str, Any]
) -> Settings:
    r"""Merge defaults, ``file`` and options, later ones winning.

    Args:
        schema: a dataclass of settings with defaults.
        file: YAML; None for none.
        options: by name; those that are None were not given.

    Raises:
        ConfigError: unreadable YAML, an unknown key, or a value out of range.

    >>> _ = Path("run.yaml").write_text("n: 2\nmin_gain: 0.25")
    >>> run = resolve_config(RunConfig, Path("run.yaml"), {"n": 4})
    >>> run.n, run.min_gain
    (4, 0.25)
    >>> _ = Path("run.yaml").write_text("nn: 2")
    >>> resolve_config(RunConfig, Path("run.yaml"), {})
    Traceback (most recent call last):
    ...
    restoration_guide.cli.config.ConfigError: run.yaml: unknown setting 'nn'; did you mean 'n'?
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    source = "" if file is None else f"{file}: "
    given = {key: value for key, value in options.items() if value is not None}
    try:
        read = OmegaConf.create() if file is None else OmegaConf.load(file)
        if not isinstance(read, DictConfig):
            raise ConfigError("expected a mapping of settings, one per line as `name: value`")
        merged = OmegaConf.merge(OmegaConf.structured(schema), read, given)
        config = OmegaConf.to_object(merged)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key)
        known = [each.name for each in fields(cast(Any, schema))]
        close = get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        raise ConfigError(f"{source}unknown setting {key!r}; {hint}") from error
    except OmegaConfBaseException as error:
        problem = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{source}{error.full_key}: {problem}") from error
    except (YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"{source}{error}") from error
    return cast(Settings, config)


def resolve_or_stop(
    schema: type[Settings], file: Path | None, options: Mapping[str, Any]
) -> Settings:
    """The same; settings that cannot be used end the program with an error."""
    try:
        return resolve_config(schema, file, options)
    except ConfigError as error:
        stop(str(error), error)
