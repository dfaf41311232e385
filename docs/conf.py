"""Sphinx configuration: `make docs`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import zoomiqa_core

project = "zoomiqa-restoration-guide"
author = "the maintainers"
version = release = zoomiqa_core.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output of examples
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88

ATTRIBUTES = ("attribute", "data", "property")
_attribute_lines: dict[str, list[str]] = {}


def _keep(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in ATTRIBUTES:
        _attribute_lines[name] = list(lines)


def _restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in ATTRIBUTES:
        lines[:] = _attribute_lines[name]


def setup(app: Any) -> None:
    """Keep napoleon from reading ``"Source: a path"`` below an attribute as ``TYPE: text``."""
    app.connect("autodoc-process-docstring", _keep, priority=499)  # napoleon has 500
    app.connect("autodoc-process-docstring", _restore, priority=501)
