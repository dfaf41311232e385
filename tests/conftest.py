"""What every test runs under: no network, a fixed number of threads, seeded global generators."""

import os
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # blocks the network of this process …
os.environ["PYTHONPATH"] = os.pathsep.join(  # … and of every process that a test starts
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
)
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub look-up fails at once, with a message that says why

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def _seeded_globals() -> None:
    """A test that draws from a global generator draws the same numbers every time."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
