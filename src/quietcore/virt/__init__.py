"""The only code that speaks to libvirt and, through it, to QEMU's monitor."""

from quietcore.virt.hypervisor import HypervisorError, LibvirtHypervisor

__all__ = ["HypervisorError", "LibvirtHypervisor"]
