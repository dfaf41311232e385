"""The ablation: every variant composes and differs, what is done is kept, the table by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes import ablate_proxy as recipe
from recipes import train_proxy
from recipes.compose import compose

DATA = ["photos=p", "biq2021=b", "restored=r", "start=s"]


def test_every_variant_is_another_training_of_the_same_budget():
    config, _ = compose(recipe.Config, DATA)
    made = {
        name: compose(train_proxy.Config, recipe.command_line(config, name))[0]
        for name in config.variants
    }
    assert len({str(one).replace(name, "") for name, one in made.items()}) == len(recipe.VARIANTS)
    assert {(one.steps, one.seed, one.bf16) for one in made.values()} == {(300, 0, True)}
    assert made["no_map"].map_weight == 0 and made["no_text"].batch.written == 0


def test_an_unknown_variant_is_named():
    with pytest.raises(Exception, match="no_colour"):
        compose(recipe.Config, [*DATA, "variants=[no_colour]"])


def test_what_is_trained_is_kept_and_the_table_says_the_distance(tmp_path, monkeypatch, capsys):
    trained = []

    def train(arguments: list[str]) -> None:
        (out,) = (Path(word[4:]) for word in arguments if word.startswith("out="))
        trained.append(out.name)
        (out / "weights").mkdir(parents=True)
        rating = 0.8 if out.name == "all" else 0.75
        last = {"step": 2, "mean_subset_srcc": rating, "srcc": rating, "plcc": rating}
        (out / "log.jsonl").write_text('{"step": 1}\n' + json.dumps(last) + "\n")

    monkeypatch.setattr(recipe.train_proxy, "main", train)
    line = [*DATA, f"out={tmp_path}", "variants=[all,no_map]"]
    recipe.main(line)
    recipe.main([*line[:-1], "variants=[all,no_map,no_text]"])
    assert trained == ["all", "no_map", "no_text"]
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| all | 0.800 | 0.800 | 0.800 |" in table
    assert "| no_text | 0.750 (-0.050) | 0.750 (-0.050) | 0.750 (-0.050) |" in table
    assert table in capsys.readouterr().out
