"""The Space folder: what Hugging Face reads of it, and that it starts the page."""

import runpy
from pathlib import Path

import yaml

import restoration_guide
from restoration_guide.app.config import AppConfig

SPACE = Path(restoration_guide.__file__).parent / "integrations" / "space"


def test_the_header_names_what_is_there() -> None:
    _, header, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    known = yaml.safe_load(header)
    assert known["sdk"] == "gradio" and known["sdk_version"].startswith("6.")
    assert (SPACE / known["app_file"]).is_file() and text.strip()
    assert len(known["short_description"]) <= 60  # the Hub's limit
    assert (SPACE / "requirements.txt").read_text("utf-8") == "zoomiqa-restoration-guide[app]\n"


def test_it_starts_the_page_for_other_machines(monkeypatch) -> None:
    started = []
    monkeypatch.setattr(
        "restoration_guide.app.launch.launch_app",
        lambda config, **where: started.append((config, where)),
    )
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    [(config, where)] = started
    assert isinstance(config, AppConfig) and where == {"host": "0.0.0.0", "port": 7860}
