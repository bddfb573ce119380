"""The virtual lab: throw-away machines with many CPUs, NUMA nodes and PREEMPT_RT kernels, booted by QEMU without KVM.

A lab's root file system is the host's own, shared read-only below an overlay, so everything that is installed here is there too
and nothing that the lab writes reaches the host, except through one read-write folder. See docs/lab.md.
"""
