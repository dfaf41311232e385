"""Recipes' command line: defaults, file, words; what is missing is named."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import yaml
from omegaconf import MISSING, OmegaConf

import recipes
from recipes.compose import compose

RECIPES = Path(recipes.__file__).parent
FILES = sorted((RECIPES / "configs").rglob("*.yaml"))


@dataclass(frozen=True)
class Config:
    """A recipe."""

    photos: str = MISSING
    """Folder."""
    steps: int = 1
    """Steps."""


def test_words_win_over_the_file_and_the_file_over_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 2\nphotos: here\n")
    config, text = compose(Config, ["--config", str(tmp_path / "c.yaml"), "steps=3"])
    assert config == Config("here", 3)
    assert "steps: 3" in text


def test_what_is_missing_is_named(capsys):
    with pytest.raises(SystemExit):
        compose(Config, ["steps=3"])
    assert "give photos=…" in capsys.readouterr().err


def test_an_unknown_key_is_refused():
    with pytest.raises(Exception, match="stepz"):
        compose(Config, ["photos=x", "stepz=3"])


def test_the_page_lists_every_recipe():
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `python -m recipes\.(\w+)", page, re.MULTILINE)
    scripts = {path.stem for path in RECIPES.glob("*.py")} - {"__init__", "compose"}
    assert sorted(listed) == sorted(scripts)


def config_class(recipe: str):
    return importlib.import_module(f"recipes.{recipe}").Config


def test_there_are_configurations():
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(RECIPES / "configs")))
def test_every_configuration_composes_with_its_recipe(file: Path):
    settings = config_class(file.relative_to(RECIPES / "configs").parts[0])
    lists = {field.name for field in fields(settings) if "list" in str(field.type)}
    missing = OmegaConf.missing_keys(OmegaConf.structured(settings))
    given = [f"{key}=[x]" if key in lists else f"{key}=x" for key in sorted(missing)]
    _, resolved = compose(settings, ["--config", str(file), *given])
    assert contains(yaml.safe_load(resolved), yaml.safe_load(file.read_text(encoding="utf-8")))


def contains(whole: dict, part: dict) -> bool:
    return all(
        contains(whole[key], value) if isinstance(value, dict) else whole[key] == value
        for key, value in part.items()
    )


@pytest.mark.parametrize("name", ["default", "smoke"])
def test_the_stages_of_the_tiny_judge_compose_with_their_recipes(name: str):
    file = RECIPES / "configs" / "train_tiny_judge" / f"{name}.yaml"
    given = compose(
        config_class("train_tiny_judge"), ["--config", str(file), "photos=x", "biq2021=x"]
    )[0]
    stages = {
        "build_gr_iqa": [given.gr_iqa],
        "train_sft": [given.sft],
        "train_correction": [given.correction],
        "train_grpo": [given.grpo, *given.variants.values()],
    }
    for recipe, settings in stages.items():
        for one in settings:
            OmegaConf.merge(OmegaConf.structured(config_class(recipe)), one)  # unknown keys raise
