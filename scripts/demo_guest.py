#!/usr/bin/python3
"""Builds the demo guest: a kernel and an initramfs from distribution packages, which are downloaded and unpacked, never installed.

The guest prints the CPUs that it sees, says that it is up, and then has a shell on its serial console, with cyclictest in it.
The result is kept in the cache under a name made of the packages' versions and this file; the same packages give the same bytes.

Usage: demo_guest.py            prints the directory that holds boot/vmlinuz and boot/initrd
"""

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")
"""The first that the distribution has; the last is Ubuntu's. They depend on the package that holds the kernel."""
PROGRAMS = ("busybox-static", "rt-tests", "libc6", "libnuma1")
MODULES = ("button", "evdev", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "isofs")
LIBRARY_PLACES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")

INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /var/run /var/log
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
exec </dev/console >/dev/console 2>&1
export HOME=/root PATH=/bin TERM=linux PS1='demo:\\w# '
hostname demo
for module in button evdev; do modprobe $module 2>/dev/null; done
if grep -qs 0x1af4 /sys/bus/pci/devices/*/vendor; then
    for module in virtio_pci virtio_blk virtio_net virtio_rng; do modprobe $module 2>/dev/null; done
fi
ip link set lo up
[ -e /sys/class/net/eth0 ] && ip link set eth0 up && udhcpc -i eth0 -s /etc/udhcpc -b -t 20 -T 1 >/dev/null 2>&1 &
[ -e /dev/input/event0 ] && acpid
cut -d ' ' -f 1 /proc/uptime >/run/up
hello
echo "This is a shell. Try: hello    cyclictest -m -p 1 -l 1000 -q    poweroff -f"
console=$(sed 's/.* //; s/^tty0$/ttyS0/' /sys/class/tty/console/active)
while :; do setsid sh -c "exec sh </dev/$console >/dev/$console 2>&1"; done
"""

HELLO = """\
#!/bin/sh
disks=$(cd /sys/class/block && ls -d [shv]d[a-z] sr[0-9] 2>/dev/null | tr '\\n' ' ')
memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
echo
echo "quietcore demo guest: Linux $(uname -r), CPUs $(cat /sys/devices/system/cpu/online), ${memory} MiB, disks: ${disks:-none}"
echo "quietcore demo guest: up after $(cat /run/up) s"
"""
"""What the guest says when it is up, and again when asked for it on its console."""
UDHCPC = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
"""


def say(text: str) -> None:
    """Talk goes to standard error; standard output is the answer."""
    print(f"demo guest: {text}", file=sys.stderr, flush=True)


def run(*argv: str, cwd: Path | None = None) -> str:
    """The output of a program; its own words and an end when it fails."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        sys.exit(f"demo guest: {' '.join(argv)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def candidates(packages: Sequence[str]) -> dict[str, str]:
    """The version that apt would install of each package that it knows."""
    told = run("apt-cache", "policy", *packages)
    found = re.findall(r"^(\S+):$\n(?:^ .*$\n)*?^  Candidate: (\S+)$", told, re.MULTILINE)
    return {name: version for name, version in found if version != "(none)"}


def depends(package: str) -> list[str]:
    """The packages that a package depends on, first choices only, by apt's own listing."""
    return re.findall(r"^  Depends: ([a-z0-9][a-z0-9.+-]*)$", run("apt-cache", "depends", package), re.MULTILINE)


def kernel_packages() -> list[str]:
    """The packages that hold the newest kernel and its modules: what the distribution's meta package leads to."""
    known = candidates(KERNELS)
    meta = next((name for name in KERNELS if name in known), None)
    if meta is None:
        sys.exit(f"demo guest: apt knows none of {', '.join(KERNELS)}; run apt-get update")
    queue, found = [meta], list[str]()
    while queue:
        package = queue.pop()
        for one in depends(package):
            if re.match(r"linux-(image|modules)-.*\d", one) and one not in found:
                found.append(one)
                queue.append(one)
    if not found:
        sys.exit(f"demo guest: {meta} leads to no kernel package")
    return found


def contents_of(root: Path) -> dict[str, bytes]:
    """Everything of the initramfs but the init script: programs, their libraries, and the modules with their dependencies."""
    files = {"bin/busybox": next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())}
    cyclictest = root / "usr/bin/cyclictest"
    files["bin/cyclictest"] = cyclictest
    loader = next(path for path in (root / "lib64/ld-linux-x86-64.so.2", root / "usr/lib64/ld-linux-x86-64.so.2") if path.exists())
    places = ":".join(str(root / place) for place in LIBRARY_PLACES)
    for line in run(str(loader.resolve()), "--library-path", places, "--list", str(cyclictest)).splitlines():
        library = re.search(r"=> (/\S+)", line)
        if library and Path(library[1]).is_relative_to(root):
            files[f"lib/x86_64-linux-gnu/{Path(library[1]).name}"] = Path(library[1])
    files["lib64/ld-linux-x86-64.so.2"] = loader
    made = {name: path.resolve().read_bytes() for name, path in files.items()}
    made |= modules_of(root)
    made["bin/hello"] = HELLO.encode()
    made["etc/udhcpc"] = UDHCPC.encode()
    made["etc/acpi/PWRF/00000080"] = b"#!/bin/sh\nexec poweroff -f\n"  # the place where busybox's acpid looks for the power button
    return made


def modules_of(root: Path) -> dict[str, bytes]:
    """The modules that the guest may load, unpacked, and a modules.dep for them."""
    (tree,) = [path for place in ("lib/modules", "usr/lib/modules") for path in (root / place).glob("*") if (path / "kernel").is_dir()]
    by_name = {path.name.split(".ko")[0].replace("-", "_"): path for path in sorted(tree.rglob("*.ko*"))}
    needs: dict[str, list[str]] = {}
    loaded: dict[str, bytes] = {}
    waiting = list(MODULES)
    while waiting:
        name = waiting.pop()
        if name in needs or name not in by_name:
            continue  # not a module here: built into this kernel, or not configured
        loaded[name] = unpacked(by_name[name])
        field = re.search(rb"\0depends=([^\0]*)\0", loaded[name])
        needs[name] = [one.replace("-", "_") for one in field[1].decode().split(",") if one] if field else []
        waiting += needs[name]
    prefix = f"lib/modules/{tree.name}"
    lines = [f"{name}.ko:" + "".join(f" {one}.ko" for one in closure(name, needs)) for name in sorted(needs)]
    return {f"{prefix}/{name}.ko": content for name, content in loaded.items()} | {
        f"{prefix}/modules.dep": "\n".join(lines).encode() + b"\n"
    }


def closure(name: str, needs: Mapping[str, list[str]]) -> list[str]:
    """All modules below one, each before those that it needs, as modules.dep wants them."""
    found: list[str] = []
    for one in needs[name]:
        if one in needs:
            found = [two for two in found if two not in (one, *closure(one, needs))] + [one, *closure(one, needs)]
    return found


def unpacked(path: Path) -> bytes:
    """A module's bytes; the kernel's package may hold it compressed."""
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case _:
            return path.read_bytes()


def cpio(files: Mapping[str, bytes]) -> bytes:
    """An initramfs in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), byte for byte repeatable."""
    out = io.BytesIO()
    directories = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."} | {"dev"}
    entries = [(name, stat.S_IFDIR | 0o755, b"", (0, 0)) for name in sorted(directories)]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    entries += [(name, stat.S_IFREG | 0o755, files[name], (0, 0)) for name in sorted(files)]
    entries.append(("TRAILER!!!", 0, b"", (0, 0)))
    for number, (name, mode, content, device) in enumerate(entries, 1):
        text = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(text), 0)
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + text)
        out.write(bytes(-out.tell() % 4))
        out.write(content)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def download(packages: Sequence[str], folder: Path) -> None:
    """Fetch packages into a folder; lists that are too old for the archive are renewed once."""
    argv = ("apt-get", "-o", "APT::Sandbox::User=root", "--quiet", "download", *packages)
    if subprocess.run(argv, cwd=folder, capture_output=True, check=False).returncode:
        say("that failed; the package lists may be old: apt-get update")
        run("apt-get", "update", "--quiet")
        run(*argv, cwd=folder)


def build(packages: Sequence[str], target: Path) -> None:
    """Download, unpack, and write boot/vmlinuz and boot/initrd below `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".guest-", dir=target.parent) as work:
        root, downloads = Path(work, "root"), Path(work, "debs")
        root.mkdir()
        downloads.mkdir()
        say(f"downloading {' '.join(packages)}")
        download(packages, downloads)
        for package in sorted(downloads.glob("*.deb")):
            run("dpkg-deb", "--extract", str(package), str(root))
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        made = Path(work, "out", "boot")
        made.mkdir(parents=True)
        initrd = cpio(contents_of(root) | {"init": INIT.encode()})
        (made / "initrd").write_bytes(gzip.compress(initrd, compresslevel=6, mtime=0))
        shutil.copyfile(kernel, made / "vmlinuz")
        made.parent.rename(target)
    for old in target.parent.iterdir():
        if old != target and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)  # guests of other packages or of another version of this file


def main() -> None:
    """Build the guest unless the cache has it, and print where it is."""
    cache = Path(os.environ.get("QUIETCORE_CACHE", "/var/cache/quietcore"))
    if not candidates(KERNELS):
        say("apt has no package lists: apt-get update")
        run("apt-get", "update", "--quiet")
    packages = [*kernel_packages(), *PROGRAMS]
    known = candidates(packages)
    unknown = [package for package in packages if package not in known]
    if unknown:
        sys.exit(f"demo guest: apt knows no {', '.join(unknown)}; run apt-get update")
    versions = [f"{package}={known[package]}" for package in packages]
    key = hashlib.sha256("\n".join([*versions, Path(__file__).read_text()]).encode()).hexdigest()[:16]
    target = cache / "demo-guest" / key
    if target.is_dir():
        say(f"in the cache: {target}")
    else:
        build(packages, target)
        say(f"built: {target}")
    print(target)


if __name__ == "__main__":
    main()
