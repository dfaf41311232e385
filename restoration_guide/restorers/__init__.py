"""Restorers: diffusion pipelines and functions that make restored candidates."""

from __future__ import annotations

from restoration_guide.restorers.base import (
    Candidate,
    Observer,
    Preview,
    Restorer,
    Settings,
    candidate_generator,
)
from restoration_guide.restorers.load import load_restorer
from restoration_guide.restorers.pool import MemberError, RestorerPool

__all__ = [
    "Candidate",
    "MemberError",
    "Observer",
    "Preview",
    "Restorer",
    "RestorerPool",
    "Settings",
    "candidate_generator",
    "load_restorer",
]
