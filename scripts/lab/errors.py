"""What can go wrong before a lab runs; each message is one sentence with the fix in it."""


class LabUnavailableError(Exception):
    """A prerequisite is missing: QEMU, a kernel package, memory, or root's rights."""
