"""Guided restoration: restore N ways, judge every candidate, keep the best or the input."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restoration_guide.best_of_n import BestOfN, BestOfNConfig, SearchInterrupted
    from restoration_guide.choice import Choice, ChoiceRule, choose
    from restoration_guide.compose import ComposeConfig, compose_regions
    from restoration_guide.fidelity import Fidelity, FidelityLimits, measure_fidelity
    from restoration_guide.gate import QualityGate
    from restoration_guide.prune import PruneConfig
    from restoration_guide.report_folder import ReportExistsError
    from restoration_guide.restorers import load_restorer
    from restoration_guide.restorers.base import Candidate, Restorer, Settings
    from restoration_guide.retry import RetryPolicy
    from restoration_guide.selection import Row, Selection
    from restoration_guide.verdict import Verdict

__all__ = [
    "BestOfN",
    "BestOfNConfig",
    "Candidate",
    "Choice",
    "ChoiceRule",
    "ComposeConfig",
    "Fidelity",
    "FidelityLimits",
    "PruneConfig",
    "QualityGate",
    "ReportExistsError",
    "Restorer",
    "RetryPolicy",
    "Row",
    "SearchInterrupted",
    "Selection",
    "Settings",
    "Verdict",
    "choose",
    "compose_regions",
    "load_restorer",
    "measure_fidelity",
]

_LAZY = {
    "BestOfN": "best_of_n",
    "BestOfNConfig": "best_of_n",
    "SearchInterrupted": "best_of_n",
    "Choice": "choice",
    "ChoiceRule": "choice",
    "choose": "choice",
    "ComposeConfig": "compose",
    "compose_regions": "compose",
    "Fidelity": "fidelity",
    "FidelityLimits": "fidelity",
    "measure_fidelity": "fidelity",
    "PruneConfig": "prune",
    "QualityGate": "gate",
    "ReportExistsError": "report_folder",
    "load_restorer": "restorers",
    "Candidate": "restorers.base",
    "Restorer": "restorers.base",
    "Settings": "restorers.base",
    "RetryPolicy": "retry",
    "Row": "selection",
    "Selection": "selection",
    "Verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: diffusers alone takes seconds."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
