"""The alarm: a small second judge, supervised by full-reference similarity alone."""

from __future__ import annotations

from zoomiqa_core.alarm.model import Alarm

__all__ = ["Alarm"]
