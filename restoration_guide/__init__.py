"""Guided restoration: restore N ways, judge every candidate, keep the best or the input."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restoration_guide.app.config import AppConfig
    from restoration_guide.app.launch import launch_app
    from restoration_guide.fidelity.measure import Fidelity, FidelityLimits, measure_fidelity
    from restoration_guide.gate.gate import QualityGate
    from restoration_guide.gate.run import RetryPolicy, run_gated
    from restoration_guide.gate.verdict import Verdict
    from restoration_guide.report.folder import ReportExistsError
    from restoration_guide.report.write import write_report
    from restoration_guide.restorers import load_restorer
    from restoration_guide.restorers.base import Candidate, Restorer, Settings
    from restoration_guide.restorers.pool import RestorerPool
    from restoration_guide.search.best_of_n import (
        BestOfN,
        BestOfNConfig,
        RestorationError,
    )
    from restoration_guide.search.choice import Choice, ChoiceRule, NoCandidateError, choose
    from restoration_guide.search.compose import ComposeConfig, compose_regions
    from restoration_guide.search.pick import PickConfig, pick_best
    from restoration_guide.search.prune import PruneConfig
    from restoration_guide.search.selection import Row, SearchInterrupted, Selection

__all__ = [
    "AppConfig",
    "BestOfN",
    "BestOfNConfig",
    "Candidate",
    "Choice",
    "ChoiceRule",
    "ComposeConfig",
    "Fidelity",
    "FidelityLimits",
    "NoCandidateError",
    "PickConfig",
    "PruneConfig",
    "QualityGate",
    "ReportExistsError",
    "RestorationError",
    "Restorer",
    "RestorerPool",
    "RetryPolicy",
    "Row",
    "SearchInterrupted",
    "Selection",
    "Settings",
    "Verdict",
    "choose",
    "compose_regions",
    "launch_app",
    "load_restorer",
    "measure_fidelity",
    "pick_best",
    "run_gated",
    "write_report",
]

_LAZY = {
    "AppConfig": "app.config",
    "launch_app": "app.launch",
    "BestOfN": "search.best_of_n",
    "BestOfNConfig": "search.best_of_n",
    "RestorationError": "search.best_of_n",
    "Choice": "search.choice",
    "ChoiceRule": "search.choice",
    "NoCandidateError": "search.choice",
    "choose": "search.choice",
    "PickConfig": "search.pick",
    "pick_best": "search.pick",
    "ComposeConfig": "search.compose",
    "compose_regions": "search.compose",
    "Fidelity": "fidelity.measure",
    "FidelityLimits": "fidelity.measure",
    "measure_fidelity": "fidelity.measure",
    "PruneConfig": "search.prune",
    "QualityGate": "gate.gate",
    "ReportExistsError": "report.folder",
    "write_report": "report.write",
    "load_restorer": "restorers",
    "Candidate": "restorers.base",
    "Restorer": "restorers.base",
    "RestorerPool": "restorers.pool",
    "Settings": "restorers.base",
    "RetryPolicy": "gate.run",
    "run_gated": "gate.run",
    "Row": "search.selection",
    "SearchInterrupted": "search.selection",
    "Selection": "search.selection",
    "Verdict": "gate.verdict",
}


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: diffusers alone takes seconds."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
