"""quietcore runs KVM virtual machines whose CPUs are really theirs."""

__version__ = "0.1.0"
