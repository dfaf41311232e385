"""What is found in folders: order, links, hidden names, the output folder, counts by kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoomiqa_core.images.folders import find_images, in_words, search_images


@pytest.fixture
def touch(tmp_path, monkeypatch):
    """Work in an empty folder; ``touch(*names)`` makes files there."""
    monkeypatch.chdir(tmp_path)

    def touch(*names):
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return touch


def relatives(*inputs, **options):
    return [image.relative.as_posix() for image in search_images(inputs, **options).images]


def test_find_images(tmp_path, monkeypatch):
    names = ["b.PNG", "a.jpg", "sub/c.webp", ".hidden/d.png", ".e.png", "notes.txt", "x[1].png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "void").mkdir()
    monkeypatch.chdir(tmp_path)

    def found(*inputs):
        return [path.as_posix() for path in find_images(inputs)]

    everything = ["a.jpg", "b.PNG", "sub/c.webp", "x[1].png"]
    assert found(".") == everything
    assert found("a.jpg", Path("."), "a.jpg") == everything  # each once, in the order first met
    assert found("*.jpg", "s*") == ["a.jpg", "sub/c.webp"]
    assert found("**/*.webp") == ["sub/c.webp"]
    assert found("x[1].png") == ["x[1].png"]  # a file of that name is no pattern
    assert found("none.png", "*.none", "void", "notes.txt") == [
        "none.png",
        "*.none",
        "void",
        "notes.txt",
    ]
    assert found() == []
    assert find_images("sub") == [Path("sub/c.webp")]  # one path, not its letters


def test_outputs_mirror_the_folder_or_the_patterns_fixed_part(touch):
    touch("in/a.jpg", "in/d1/a.png", "in/d2/a.png")
    assert relatives("in") == ["a.jpg", "d1/a.png", "d2/a.png"]
    assert relatives("in/*/a.png") == ["d1/a.png", "d2/a.png"]
    assert relatives("in/*") == ["a.jpg", "d1/a.png", "d2/a.png"]
    assert relatives("in/d1/a.png", "*.jpg") == ["a.png"]


def test_linked_folders_are_searched_once_and_a_circle_ends(touch):
    touch("far/c.png", "in/a.png", "in/sub/b.png")
    Path("in/a-link").symlink_to(Path("far").resolve())
    Path("in/again").symlink_to(Path("far").resolve())
    Path("in/sub/up").symlink_to(Path("in").resolve())
    found = search_images("in")
    assert [path.as_posix() for path in found.paths] == [
        "in/a-link/c.png",
        "in/a.png",
        "in/sub/b.png",
    ]
    assert found.passed_over == {"link to a folder already searched": 2}


def test_what_is_passed_over_is_counted(touch):
    touch("in/a.png", "in/b.HEIC", "in/c.heic", "in/README", "in/.hidden.png", "in/.git/d.png")
    found = search_images("in")
    assert found.passed_over == {".heic": 2, "without a suffix": 1, "hidden": 1}
    assert in_words(found.passed_over).startswith("4 files passed over: 2 .heic")


def test_the_output_folder_is_never_an_input(touch):
    touch("in/a.png", "in/out/a.png", "in/out/deep/a.png", "in/outer/a.png")
    Path("in/link").symlink_to(Path("in/out").resolve())
    assert relatives("in", output=Path("in/out")) == ["a.png", "outer/a.png"]
    assert relatives("in/*/a.png", output=Path("in/out")) == ["outer/a.png"]
    for given in ("in/out", "in/out/a.png", "in/link"):
        with pytest.raises(ValueError, match="lies in the output folder in/out; choose another"):
            search_images(given, output=Path("in/out"))


def test_what_gives_no_image_says_why(touch):
    touch("void/a.txt")
    Path("empty").mkdir()
    found = search_images(["void", "empty", "none.png", "*.webp", "x" * 300])
    assert found.images == []
    assert {each.name: each.message for each in found.absent} == {
        "void": "no images found in void (1 file passed over: 1 .txt)",
        "empty": "no images found in empty",
        "none.png": "none.png: no such file; check the path",
        "*.webp": "*.webp: no file matches this pattern",
        "x" * 300: f"{'x' * 300}: no such file; check the path",
    }


def test_names_that_are_no_text(touch):
    name = os.fsdecode(b"caf\xe9.jpg")
    touch(f"in/{name}", "in/a.png")
    assert [path.name for path in search_images("in").paths] == ["a.png", name]


def test_a_broken_link_and_a_pipe_are_named_when_they_are_read(touch):
    touch("in/a.png")
    Path("in/b.png").symlink_to("gone.png")
    os.mkfifo("in/c.png")
    assert relatives("in") == ["a.png", "b.png", "c.png"]
