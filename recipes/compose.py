"""Command line of every recipe: ``--config FILE.yaml`` and ``key=value`` over a dataclass."""

from __future__ import annotations

import argparse
from typing import TypeVar, cast

from omegaconf import OmegaConf

ConfigT = TypeVar("ConfigT")


def compose(config_class: type[ConfigT], arguments: list[str] | None = None) -> tuple[ConfigT, str]:
    """Merge the dataclass's defaults, a YAML file and ``key=value`` words, in that order.

    Args:
        config_class: frozen dataclass; ``MISSING`` fields must be given.
        arguments: command line without the program's name; None reads ``sys.argv``.

    Returns:
        The typed configuration, and its YAML text for the run's folder.
    """
    parser = argparse.ArgumentParser(description=config_class.__doc__)
    parser.add_argument("--config", help="YAML file with values for the fields")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    known = parser.parse_intermixed_args(arguments)
    merged = OmegaConf.structured(config_class)
    if known.config:
        merged = OmegaConf.merge(merged, OmegaConf.load(known.config))
    merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(known.overrides))
    missing = OmegaConf.missing_keys(merged)
    if missing:
        parser.error("give " + " ".join(f"{key}=…" for key in sorted(missing)))
    return cast(ConfigT, OmegaConf.to_object(merged)), OmegaConf.to_yaml(merged)
