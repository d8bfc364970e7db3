"""Time is a loop: ``unroll`` applies a cell over it."""

from ..planner.call import Bytes
from ..planner.lookup import PlanError
from ..planner.loop import Cell
from ..planner.plan import Plan
from ..planner.planner import plan_cache
from ..planner.trust import pure
from .online import OnlineStep, learn_online
from .ragged import pad_sequences, unpad_sequences
from .truncated import Window, detach, truncated_bptt
from .unroll import initial_state, plan, unroll

__all__ = [
    "Bytes",
    "Cell",
    "OnlineStep",
    "Plan",
    "PlanError",
    "Window",
    "detach",
    "initial_state",
    "learn_online",
    "pad_sequences",
    "plan",
    "plan_cache",
    "pure",
    "truncated_bptt",
    "unpad_sequences",
    "unroll",
]
