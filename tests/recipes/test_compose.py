"""Recipes' command line: defaults, file, words; what is missing is named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from omegaconf import MISSING

from recipes.compose import compose


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
