"""Rules that hold for the whole repository: imports, side effects, configurations, weights."""

import ast
import dataclasses
import importlib
import importlib.metadata
import json
import os
import pkgutil
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipes.compose import compose

ROOT = Path(__file__).parents[1]
PACKAGES = ("zoomiqa_core", "restoration_guide", "recipes")  # from the ground up
CONFIGS = sorted((ROOT / "recipes" / "configs").rglob("*.yaml"))
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python(code: str) -> Any:
    """Run code in a fresh interpreter and return the JSON it prints last."""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def module_names(package: str) -> list[str]:
    found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    return [package, *(module.name for module in found)]


# --- imports -------------------------------------------------------------------------------------


IMPORT_TIMES = """
import json, time
start = time.perf_counter(); import torch
middle = time.perf_counter(); import zoomiqa_core
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""


def test_importing_the_core_adds_at_most_half_of_importing_torch() -> None:
    torch_seconds = core_seconds = float("inf")
    for _ in range(5):  # a busy machine only ever adds time, so the least of several is the truth
        torch_now, core_now = python(IMPORT_TIMES)
        torch_seconds, core_seconds = min(torch_seconds, torch_now), min(core_seconds, core_now)
        if core_seconds <= 0.5 * torch_seconds:
            return
    pytest.fail(f"torch takes {torch_seconds:.2f} s, zoomiqa_core {core_seconds:.2f} s more")


SIDE_EFFECTS = """
import json, logging, os, random, warnings
import numpy, torch

def state():
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch's own, when torchmetrics imports it
    return {
        "environment": dict(os.environ),
        "torch seed": torch.initial_seed(),
        "torch state": torch.get_rng_state().tolist(),
        "numpy state": repr(numpy.random.get_state()),
        "python state": repr(random.getstate()),
        "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "logging": [logging.root.level, repr(logging.root.handlers)],
    }

before = state()
import zoomiqa_core, restoration_guide
for package in (zoomiqa_core, restoration_guide):
    for name in package.__all__:
        getattr(package, name)
after = state()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


def test_importing_changes_nothing() -> None:
    assert python(SIDE_EFFECTS) == {}


HEAVY = """
import json, sys
import zoomiqa_core
print(json.dumps(sorted({"diffusers", "gradio", "kornia", "matplotlib", "peft", "scipy", "sklearn",
    "timm", "torchvision", "transformers", "trl"} & set(sys.modules))))
"""


def test_importing_the_core_loads_no_heavy_library() -> None:
    assert python(HEAVY) == []


INSIDE_COMFYUI = "restoration_guide.integrations.comfyui.nodes"
"""Imports what only a running ComfyUI has."""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports_and_its_public_names_exist(package: str) -> None:
    for name in module_names(package):
        if name.endswith("__main__") or name == INSIDE_COMFYUI:
            continue
        module = importlib.import_module(name)
        public = getattr(module, "__all__", ())
        assert [missing for missing in public if not hasattr(module, missing)] == [], name


@pytest.mark.parametrize("package", ["zoomiqa_core", "restoration_guide"])
def test_packages_declare_their_public_names(package: str) -> None:
    names = importlib.import_module(package).__all__
    assert len(names) == len(set(names)) > 0
    assert (ROOT / package / "py.typed").is_file()


PUBLIC = [
    f"{package}.{name}"
    for package in ("zoomiqa_core", "restoration_guide")
    for name in importlib.import_module(package).__all__
    if name != "__version__"
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    package, _, attribute = name.rpartition(".")
    public = getattr(importlib.import_module(package), attribute)
    assert ">>> " in (public.__doc__ or ""), "show its use in the docstring, with what it prints"


def test_no_test_is_parametrised_over_a_set() -> None:
    """Sets have no order across processes, and every worker must collect the same tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("parametrize"):
                cases = node.args[1] if len(node.args) > 1 else node
                unordered = isinstance(cases, ast.Set | ast.SetComp) or (
                    isinstance(cases, ast.Call)
                    and ast.unparse(cases.func) in ("set", "frozenset", "list", "tuple")
                    and ast.unparse(cases).startswith(("set(", "frozenset(", "list({", "list(set("))
                )
                assert not unordered, f"{path.name}:{node.lineno}: sort the cases"


# --- code ----------------------------------------------------------------------------------------


def test_nothing_unsafe_is_loaded() -> None:
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                safe = keywords.get("weights_only") == "True"
                assert ast.unparse(call.func) != "torch.load" or safe, name_of(path)
                assert keywords.get("trust_remote_code") != "True", name_of(path)


TEXT = {
    ".py",
    ".md",
    ".toml",
    ".yaml",
    ".yml",
    ".json",
    ".cff",
    ".jinja",
    ".j2",
    ".html",
    ".css",
    "",
}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:tmp|work|root|home|Users|mnt|scratch)/")


def repository_files() -> Iterator[Path]:
    """Everything but what tools and runs leave behind."""
    left_behind = {ROOT / name for name in ("runs", "build", "dist")}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name == ".ci" or (name[0] not in "._" and Path(folder, name) not in left_behind)
        ]
        yield from (Path(folder, name) for name in names if name != ".git")  # a worktree's


def test_no_file_names_a_path_of_one_machine() -> None:
    texts = [path for path in repository_files() if path.suffix in TEXT]
    assert len(texts) > 20
    named = {
        name_of(path): found
        for path in texts
        if (found := MACHINE_PATH.findall(path.read_text(encoding="utf-8")))
    }
    assert named == {}


LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def test_links_lead_somewhere_and_no_example_is_empty() -> None:
    pages = [path for path in repository_files() if path.suffix == ".md"]
    assert pages
    for path in pages:
        text = path.read_text(encoding="utf-8")
        links = [link for link in LINK.findall(text) if "://" not in link]
        assert [link for link in links if not (path.parent / link).exists()] == [], name_of(path)
        assert all(block.strip() for block in FENCE.findall(text)), name_of(path)


# --- configurations ------------------------------------------------------------------------------


def test_there_are_configurations() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configuration_composes_with_its_recipe(path: Path) -> None:
    recipe = path.relative_to(ROOT / "recipes" / "configs").parts[0]
    schema = importlib.import_module(f"recipes.{recipe}").Config
    assert isinstance(schema, type) and dataclasses.is_dataclass(schema)
    missing = OmegaConf.missing_keys(
        OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path))
    )
    # what the user must name: any type takes a 1, a list of them too
    lists = {f.name for f in dataclasses.fields(schema) if str(f.type).startswith("list")}
    stand_ins = [f"{key}=[1]" if key in lists else f"{key}=1" for key in missing]
    config, text = compose(schema, ["--config", str(path), *stand_ins])
    assert isinstance(config, schema)
    assert OmegaConf.create(text)


# --- what is shipped -----------------------------------------------------------------------------


def test_weights_are_safe_and_small() -> None:
    folders = [ROOT / package / "weights" for package in ("zoomiqa_core", "restoration_guide")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = {".json", ".jinja", ".yaml", ".md"}
    assert {path.suffix for path in files} <= {".safetensors"} | texts
    assert any(path.suffix == ".safetensors" for path in files)
    assert sum(path.stat().st_size for path in files) < 60e6


def test_every_set_of_weights_has_a_card() -> None:
    for package in ("zoomiqa_core", "restoration_guide"):
        for folder in (ROOT / package / "weights").iterdir():
            card = (folder / "README.md").read_text(encoding="utf-8")
            assert "More Information Needed" not in card, name_of(folder)
            assert all(word in card for word in ("Train", "Measured", "Limits")), name_of(folder)


def test_installed_programs_load() -> None:
    distribution = importlib.metadata.distribution("zoomiqa-restoration-guide")
    programs = {program.name: program for program in distribution.entry_points}
    assert set(programs) == {"zoomiqa", "restoration-guide"}
    assert all(callable(program.load()) for program in programs.values())
    assert distribution.version == importlib.import_module("zoomiqa_core").__version__


# --- the tests themselves ------------------------------------------------------------------------


def test_the_network_is_blocked() -> None:
    with pytest.raises(OSError, match="without a network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="without a network"):
        socket.getaddrinfo("example.org", 443)


def test_the_network_is_blocked_in_started_processes() -> None:
    code = """
import json, socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(json.dumps(type(error).__name__))
"""
    assert python(code) == "NetworkBlockedError"


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
