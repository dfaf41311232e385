"""Processes of a launch: what each does, and how they end."""

import os
import signal

import pytest

from zoomiqa_core.runs import launch
from zoomiqa_core.runs.launch import Process, interrupted_once


def test_shares_are_disjoint_and_complete():
    items = list("abcdefg")
    assert Process().share(items) == items and Process().is_main
    assert Process(1, 3).share(items) == ["b", "e"] and not Process(1, 3).is_main


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_and_its_echo_does_not(number, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupted_once():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)  # within REPEAT_S
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(launch, "REPEAT_S", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)  # never again
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
