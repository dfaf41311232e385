"""What every test and doctest runs under: no network, one thread, seeded global generators."""

import os
import random
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

collect_ignore = [
    "restoration_guide/integrations/comfyui/nodes.py",  # imported inside ComfyUI only
    "restoration_guide/integrations/space/app.py",  # importing it starts a server
]

OFFLINE = Path(__file__).parent / "tests" / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # blocks the network of this process …
os.environ["PYTHONPATH"] = os.pathsep.join(  # … and of every process that a test starts
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
)
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub look-up fails at once, with a message that says why

# One thread, here and in every process a test starts: models this small gain nothing from two, and
# where another program has one of the cores, two threads that wait for each other take 20 times as
# long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _seeded_globals() -> None:
    """A test that draws from a global generator draws the same numbers every time."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _doctest_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctest runs in an empty folder, so that its example may write files."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture(scope="session")
def pipe():
    """The bundled restorer's pipeline, a few channels wide, with random weights."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline, tiny_unet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet((8, 16, 24), 1)
    made = TinyRestorationPipeline(unet.eval(), FlowMatchEulerDiscreteScheduler(), sigma_data=0.55)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def interruptible():
    """Python's own answer to Ctrl-C, also where a shell in the background had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
