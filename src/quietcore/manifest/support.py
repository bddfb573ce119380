"""What becomes of every field that KubeVirt knows: supported, refused with the reason, or ignored with the reason.

One row per type of kubevirt.fields. A field that is not listed here is refused: nothing that KubeVirt knows is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["supported", "refused", "ignored"]


@dataclass(frozen=True, slots=True)
class Support:
    """One verdict. A supported field has a `reason` where a host keeps its meaning in another way than a cluster does.

    `quiet` fields are written by the cluster itself and are ignored without a warning; `unless_off` fields are refused only when
    they ask for something: false, empty text and empty lists change nothing. A `checked` field is ignored, but KubeVirt's rules
    still judge it.
    """

    status: Status
    reason: str = ""
    quiet: bool = False
    unless_off: bool = False
    checked: bool = False


SUPPORTED: Final = Support("supported")
REFUSED: Final = Support("refused", "nothing here does what it asks for")


def _yes(names: str) -> dict[str, Support]:
    return dict.fromkeys(names.split(), SUPPORTED)


def _how(**notes: str) -> dict[str, Support]:
    return {name: Support("supported", note) for name, note in notes.items()}


def _no(names: str, reason: str = "") -> dict[str, Support]:
    return dict.fromkeys(names.split(), Support("refused", reason))


def _off(names: str, reason: str = "") -> dict[str, Support]:
    return dict.fromkeys(names.split(), Support("refused", reason, unless_off=True))


def _ignored(names: str, reason: str, *, quiet: bool = False) -> dict[str, Support]:
    return dict.fromkeys(names.split(), Support("ignored", reason, quiet=quiet))


_STATELESS: Final = _yes("apiVersion kind metadata spec")
_OBJECT: Final = _STATELESS | _ignored("status", "written by the cluster", quiet=True)
_PLACED: Final = "it chooses among the nodes of a cluster, and here the host is already chosen"
_CLUSTER_STORAGE: Final = "there is no cluster storage on a host; use hostDisk, containerDisk or emptyDisk"
_NO_OBJECTS: Final = "there are no Kubernetes objects on a host to read it from"
_DEVICE: Final = "no such device is built"
_FIXED_FEATURE: Final = "the machine always has it; switching it off is refused"
_SOFTWARE: Final = "it concerns the operation of KubeVirt itself"

TABLE: Final[Mapping[str, Mapping[str, Support]]] = {
    "VirtualMachine": _OBJECT,
    "VirtualMachineInstance": _OBJECT,
    "VirtualMachineInstancetype": _STATELESS,
    "VirtualMachineClusterInstancetype": _STATELESS,
    "VirtualMachinePreference": _STATELESS,
    "VirtualMachineClusterPreference": _STATELESS,
    "KubeVirt": _OBJECT,
    "ObjectMeta": _yes("name namespace labels annotations")
    | _no("generateName", "a VM is found again by its name; give it one")
    | _ignored(
        "creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generation managedFields ownerReferences "
        "resourceVersion selfLink uid",
        "written by the cluster",
        quiet=True,
    ),
    "VirtualMachineSpec": _yes("instancetype preference running runStrategy template")
    | _no("dataVolumeTemplates", _CLUSTER_STORAGE)
    | _no("updateVolumesStrategy", "volumes cannot be migrated"),
    "VirtualMachineInstanceTemplateSpec": _yes("metadata spec"),
    "InstancetypeMatcher": _yes("kind name")
    | _ignored("revisionName", "written by the cluster", quiet=True)
    | _no("inferFromVolume inferFromVolumeFailurePolicy", _CLUSTER_STORAGE),
    "PreferenceMatcher": _yes("kind name")
    | _ignored("revisionName", "written by the cluster", quiet=True)
    | _no("inferFromVolume inferFromVolumeFailurePolicy", _CLUSTER_STORAGE),
    "VirtualMachineInstanceSpec": _yes(
        "architecture domain networks startStrategy terminationGracePeriodSeconds volumes",
    )
    | _how(hostname="through cloud-init", nodeSelector="it stands in the launcher pod; a single host does not ask it")
    | _ignored("affinity tolerations topologySpreadConstraints schedulerName", _PLACED)
    | _ignored("priorityClassName", "nothing is preempted on a host")
    | _ignored("evictionStrategy", "a host is not drained; VMs with dedicated CPUs are never migrated")
    | _no("accessCredentials", _NO_OBJECTS)
    | _no("dnsConfig dnsPolicy subdomain", "there is no cluster DNS")
    | _no("livenessProbe readinessProbe", "the guest is not probed")
    | _no("resourceClaims", "there is no dynamic resource allocation on a host")
    | _no("serviceAccountName", _NO_OBJECTS)
    | _no("utilityVolumes", "KubeVirt refuses them in a new VM as well"),
    "DomainSpec": _yes("clock cpu devices features firmware ioThreads ioThreadsPolicy machine memory resources")
    | _no("chassis", "the SMBIOS chassis is not set")
    | _no("launchSecurity", "confidential guests are not supported")
    | _no("rebootPolicy", "a guest's reboot stays a reboot"),
    "CPU": _yes(
        "cores dedicatedCpuPlacement features isolateEmulatorThread maxSockets numa realtime sockets threads",
    )
    | _how(model="the host's models need KVM; without it the guest gets QEMU's maximum model"),
    "CPUFeature": _yes("name policy"),
    "NUMA": _yes("guestMappingPassthrough"),
    "NUMAGuestMappingPassthrough": {},
    "Realtime": _yes("mask"),
    "Memory": _yes("guest hugepages reservedOverhead")
    | {
        "maxGuest": Support(
            "ignored", "memory is not hot-plugged: the guest keeps memory.guest; KubeVirt's rules judge the value", checked=True
        )
    },
    "Hugepages": _yes("pageSize"),
    "ReservedOverhead": _yes("addedOverhead memLock"),
    "ResourceRequirements": _yes("overcommitGuestOverhead requests")
    | _how(limits="of the launcher pod; on a host no CPU quota is written, because a quota throttles vCPU threads"),
    "DiskIOThreads": _how(supplementalPoolThreadCount="before libvirt 10.0 a disk has one thread: the disks take turns in the pool"),
    "Machine": _yes("type"),
    "Clock": _yes("timezone utc") | _no("timer", "the timers are libvirt's own"),
    "ClockOffsetUTC": _yes("offsetSeconds"),
    "Features": _yes("smm")
    | _ignored("acpi apic", _FIXED_FEATURE, quiet=True)
    | _no("hyperv hypervPassthrough", "Hyper-V enlightenments are not set")
    | _no("kvm", "the guest may know that it is a VM")
    | _no("pvspinlock", "how guests wait for locks is QEMU's choice"),
    "FeatureState": _yes("enabled"),
    "FeatureAPIC": _yes("enabled") | _off("endOfInterrupt", "how guests end interrupts is QEMU's choice"),
    "Firmware": _yes("bootloader kernelBoot serial uuid") | _no("acpi", _NO_OBJECTS),
    "Bootloader": _yes("bios") | _how(efi="by the host's firmware, package ovmf; a host without it refuses the VM"),
    "BIOS": _off("useSerial", "the boot menu stays on the graphics device"),
    "EFI": _yes("secureBoot") | _off("persistent", "the EFI variables live as long as the VM"),
    "KernelBoot": _yes("container kernelArgs"),
    "KernelBootContainer": _yes("image initrdPath kernelPath")
    | _ignored("imagePullPolicy", "images come from the local store; pull them with `quietcore image pull`")
    | _no("imagePullSecret", _NO_OBJECTS),
    "Devices": _yes(
        "autoattachPodInterface autoattachSerialConsole blockMultiQueue disks interfaces networkInterfaceMultiqueue rng",
    )
    | _how(
        autoattachGraphicsDevice="VNC on a UNIX socket that libvirt makes in the VM's own folder; a real-time guest has no graphics",
        autoattachMemBalloon="a real-time guest has no balloon",
    )
    | _ignored("disableHotplug", "devices are never hot-plugged")
    | _ignored("logSerialConsole", "there is no container log; read the console with `quietcore console`")
    | _off("autoattachInputDevice autoattachVSOCK useVirtioTransitional", _DEVICE)
    | _off("filesystems gpus hostDevices inputs panicDevices", _DEVICE)
    | _no("clientPassthrough downwardMetrics sound tpm video watchdog", _DEVICE),
    "Rng": {},
    "Disk": _yes("bootOrder cache cdrom dedicatedIOThread disk io name serial")
    | _no("lun", "KubeVirt maps a LUN to cluster storage only, and there is none on a host")
    | _off("shareable", "a disk belongs to one VM")
    | _off("changedBlockTracking", "there are no incremental backups")
    | _no("blockSize", "disks have the block size that QEMU finds")
    | _no("errorPolicy", "the guest is stopped when a disk fails, as by KubeVirt's default")
    | _no("tag", "there is no device metadata in the cloud-init seed"),
    "DiskTarget": _yes("bus readonly") | _no("pciAddress", "libvirt assigns the addresses"),
    "CDRomTarget": _yes("bus readonly") | _ignored("tray", "the tray is always closed"),
    "Volume": _yes("cloudInitConfigDrive cloudInitNoCloud containerDisk emptyDisk hostDisk name")
    | _no("dataVolume ephemeral persistentVolumeClaim", _CLUSTER_STORAGE)
    | _no("configMap downwardAPI secret serviceAccount sysprep", _NO_OBJECTS)
    | _no("containerPath", "there is no launcher container on a host whose folders could be shared")
    | _no("downwardMetrics memoryDump", _DEVICE),
    "ContainerDiskSource": _yes("path")
    | _how(image="from the local store: `quietcore image pull` or `quietcore image import`")
    | _ignored("imagePullPolicy", "images come from the local store; pull them with `quietcore image pull`")
    | _no("imagePullSecret", _NO_OBJECTS),
    "HostDisk": _yes("capacity path") | _how(type="DiskOrCreate makes the folder too") | _off("shared", "a disk belongs to one VM"),
    "EmptyDiskSource": _yes("capacity"),
    "CloudInitNoCloudSource": _yes("networkData networkDataBase64 userData userDataBase64")
    | _no("networkDataSecretRef secretRef", _NO_OBJECTS),
    "CloudInitConfigDriveSource": _yes("networkData networkDataBase64 userData userDataBase64")
    | _no("networkDataSecretRef secretRef", _NO_OBJECTS),
    "Interface": _yes("bootOrder macAddress model name")
    | _how(
        binding="the plugin vhostuser, with its socket in an annotation",
        bridge="the host's bridge that multus.networkName names; on the pod network the one of the host's configuration",
        masquerade="QEMU's user-mode network",
        ports="TCP ports are forwarded where passt is installed; elsewhere a note says that they are not",
    )
    | _no("acpiIndex pciAddress", "libvirt assigns the addresses")
    | _no("dhcpOptions", "the guest is served by libvirt or QEMU itself")
    | _no("macvtap passt slirp", "KubeVirt has withdrawn this binding")
    | _no("passtBinding", "use masquerade")
    | _no("portRanges", "list the ports one by one")
    | _no("sriov", "host devices are not passed through")
    | _no("state", "the link is always up")
    | _no("tag", "there is no device metadata in the cloud-init seed"),
    "InterfaceBridge": {},
    "InterfaceMasquerade": {},
    "PluginBinding": _yes("name"),
    "Port": _yes("name port protocol"),
    "Network": _yes("multus name pod") | _no("resourceClaim", "there is no dynamic resource allocation on a host"),
    "PodNetwork": _no("vmIPv6NetworkCIDR vmNetworkCIDR", "QEMU's user-mode network has its own range"),
    "MultusNetwork": _how(networkName="the host's bridge; a namespace before it is left out")
    | _off("default", "there is no pod network to replace"),
    "VirtualMachineInstancetypeSpec": _yes("annotations cpu ioThreads ioThreadsPolicy memory nodeSelector")
    | _ignored("schedulerName", _PLACED)
    | _off("gpus hostDevices", _DEVICE)
    | _no("launchSecurity", "confidential guests are not supported"),
    "CPUInstancetype": _yes("dedicatedCPUPlacement guest isolateEmulatorThread maxSockets model numa realtime"),
    "MemoryInstancetype": _yes("guest hugepages maxGuest overcommitPercent"),
    "VirtualMachinePreferenceSpec": _yes(
        "annotations cpu devices firmware machine preferSpreadSocketToCoreRatio preferredTerminationGracePeriodSeconds requirements",
    )
    | _no("clock", "write the clock into the VM")
    | _no("features", "features of the machine cannot be preferred")
    | _no("preferredLaunchSecurity", "confidential guests are not supported")
    | _no("preferredSubdomain", "there is no cluster DNS")
    | _no("preferredArchitecture", "write the architecture into the VM")
    | _no("volumes", _CLUSTER_STORAGE),
    "CPUPreferences": _yes("preferredCPUFeatures preferredCPUTopology spreadOptions"),
    "SpreadOptions": _yes("across ratio"),
    "PreferenceRequirements": _yes("cpu memory") | _no("architecture", "write the architecture into the VM"),
    "CPUPreferenceRequirement": _yes("guest"),
    "MemoryPreferenceRequirement": _yes("guest"),
    "DevicePreferences": _yes(
        "preferredAutoattachGraphicsDevice preferredAutoattachMemBalloon preferredAutoattachPodInterface "
        "preferredAutoattachSerialConsole preferredBlockMultiQueue preferredCdromBus preferredDiskBus preferredDiskCache "
        "preferredDiskDedicatedIoThread preferredDiskIO preferredInterfaceModel preferredNetworkInterfaceMultiQueue "
        "preferredRng",
    )
    | _ignored("preferredDisableHotplug", "devices are never hot-plugged")
    | _ignored("preferredLunBus", "there are no LUNs")
    | _off("preferredAutoattachInputDevice preferredUseVirtioTransitional", _DEVICE)
    | _no(
        "preferredInputBus preferredInputType preferredPanicDeviceModel preferredSoundModel preferredTPM preferredVideoType "
        "preferredVirtualGPUOptions",
        _DEVICE,
    )
    | _no("preferredDiskBlockSize", "disks have the block size that QEMU finds")
    | _no("preferredInterfaceMasquerade", "write masquerade into the VM's interface"),
    "FirmwarePreferences": _yes("preferredEfi preferredUseBios preferredUseEfi preferredUseSecureBoot")
    | _off("preferredUseBiosSerial", "the boot menu stays on the graphics device"),
    "MachinePreferences": _yes("preferredMachineType"),
    "KubeVirtSpec": _yes("configuration")
    | _ignored(
        "certificateRotateStrategy customizeComponents imagePullPolicy imagePullSecrets imageRegistry imageTag infra monitorAccount "
        "monitorNamespace productComponent productName productVersion serviceMonitorNamespace synchronizationPort uninstallStrategy "
        "workloadUpdateStrategy workloads",
        _SOFTWARE,
        quiet=True,
    ),
    "KubeVirtConfiguration": _yes(
        "additionalGuestMemoryOverheadRatio cpuModel cpuRequest developerConfiguration liveUpdateConfiguration machineType "
        "vmRolloutStrategy",
    )
    | _ignored(
        "apiConfiguration autoCPULimitNamespaceLabelSelector changedBlockTrackingLabelSelectors commonInstancetypesDeployment "
        "confidentialCompute controllerConfiguration defaultRuntimeClass evictionStrategy handlerConfiguration hypervisors "
        "imagePullPolicy instancetype ksmConfiguration mediatedDevicesConfiguration memBalloonStatsPeriod migrations minCPUModel "
        "network obsoleteCPUModels permittedHostDevices persistentReservationConfiguration roleAggregationStrategy "
        "seccompConfiguration selinuxLauncherType smbios supportContainerResources supportedGuestAgentVersions tlsConfiguration "
        "virtTemplateDeployment virtualMachineInstancesPerNode virtualMachineOptions vmStateStorageClass webhookConfiguration "
        "ovmfPath",
        _SOFTWARE,
    )
    | _no("architectureConfiguration emulatedMachines", "the machine types are q35 and virt"),
    "DeveloperConfiguration": _yes("cpuAllocationRatio disabledFeatureGates featureGates memoryOvercommit")
    | _ignored(
        "clusterProfiler diskVerification logVerbosity minimumClusterTSCFrequency minimumReservePVCBytes nodeSelectors "
        "pvcTolerateLessSpaceUpToPercent useEmulation",
        _SOFTWARE,
    ),
    "LiveUpdateConfiguration": _yes("maxCpuSockets maxGuest maxHotplugRatio"),
}


def support(kind: str, field: str) -> Support:
    """The verdict on one field of one type."""
    return TABLE.get(kind, {}).get(field, REFUSED)
