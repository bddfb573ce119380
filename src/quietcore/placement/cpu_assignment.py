"""The kubelet's CPU allocator in its two forms; the functions that everybody uses."""

from quietcore.placement.distributed import distribute, take_distributed
from quietcore.placement.packed import Step, Strategy, Taken, pack, take_packed

__all__ = ["Step", "Strategy", "Taken", "distribute", "pack", "take_distributed", "take_packed"]
