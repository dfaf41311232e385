"""diffusers copies custom code into its cache: one of the test's own."""

import sys
from pathlib import Path

import pytest
from diffusers.utils import dynamic_modules_utils


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in [each for each in sys.modules if each.split(".")[0] == "diffusers_modules"]:
        del sys.modules[name]
