"""What the pages name exists: files and functions of papers, benchmarks and their commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md")]
HELPERS = {"__init__", "tables", "damaged_photos", "judge_measures", "peers", "previews"}
HELPERS |= {"searches", "timing", "tiny_judge_answers"}


def test_papers_point_at_files_and_names_that_exist() -> None:
    text = (ROOT / "docs" / "PAPERS.md").read_text(encoding="utf-8")
    found = re.findall(r"`([\w/]+\.py)`(?:: `(\w+)`)?", text)
    assert len(found) > 40
    wrong = []
    for path, name in found:
        file = ROOT / path
        if not file.is_file() or not re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")):
            wrong.append((path, name))
    assert not wrong


def test_every_benchmark_is_in_the_table_and_every_command_is_a_benchmark() -> None:
    scripts = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - HELPERS
    table = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) - {"python"} == scripts


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_test_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for package, name in re.findall(r"-m\s+(benchmarks|recipes)\.([a-z_]+)", text):
        assert (ROOT / package / f"{name}.py").is_file(), f"{package}.{name}"
    for path in re.findall(r"`?((?:tests|recipes/configs)/[\w/]+\.(?:py|yaml))", text):
        assert (ROOT / path).is_file(), path
