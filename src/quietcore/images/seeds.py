"""Writes cloud-init seeds: small ISO 9660 images with the labels and file names that cloud-init's datasources look for.

NoCloud: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
ConfigDrive: https://cloudinit.readthedocs.io/en/latest/reference/datasources/configdrive.html
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from quietcore.images.files import copy_stream
from quietcore.model import CloudInit, VmName

SEED_MODE: Final = 0o600
"""User data often holds passwords."""


def seed_files(seed: CloudInit, vm: VmName, hostname: str) -> tuple[str, Mapping[str, bytes]]:
    """The label of the seed and its files. The instance id is NAME.NAMESPACE, as KubeVirt's."""
    host = hostname or vm.name
    instance = f"{vm.name}.{vm.namespace}"
    if seed.kind == "nocloud":
        files = {"meta-data": _json({"instance-id": instance, "local-hostname": host}), "user-data": seed.user_data.encode()}
        if seed.network_data:
            files["network-config"] = seed.network_data.encode()
        return "cidata", files
    meta = {"instance-id": instance, "uuid": instance, "hostname": host, "local-hostname": host}
    files = {"openstack/latest/meta_data.json": _json(meta), "openstack/latest/user_data": seed.user_data.encode()}
    if seed.network_data:
        files["openstack/latest/network_data.json"] = seed.network_data.encode()
    return "config-2", files


def write_seed(seed: CloudInit, vm: VmName, hostname: str, target: Path) -> None:
    """Write the seed of `vm` as the new file `target`."""
    from pycdlib import PyCdlib  # noqa: PLC0415  # most VMs have no seed

    label, files = seed_files(seed, vm, hostname)
    iso = PyCdlib()
    iso.new(interchange_level=4, vol_ident=label, joliet=3, rock_ridge="1.09")
    try:
        made: set[str] = set()
        for path, content in sorted(files.items()):
            *parents, name = path.split("/")
            for depth in range(1, len(parents) + 1):
                directory = "/" + "/".join(parents[:depth])
                if directory not in made:
                    made.add(directory)
                    iso.add_directory(directory, rr_name=parents[depth - 1], joliet_path=directory)
            iso.add_fp(io.BytesIO(content), len(content), iso_path=f"/{path}", rr_name=name, joliet_path=f"/{path}")
        image = io.BytesIO()
        iso.write_fp(image)
    finally:
        iso.close()
    image.seek(0)
    copy_stream(image, target, mode=SEED_MODE)


def _json(content: Mapping[str, str]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"  # cloud-init reads meta-data as YAML, which JSON is
