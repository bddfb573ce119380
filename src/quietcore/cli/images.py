"""`quietcore image`: the local store from which container disks and kernels come."""

from __future__ import annotations

from pathlib import Path

import click

from quietcore.cli.context import App
from quietcore.cli.options import output_option, print_object
from quietcore.images import StoredImage, references
from quietcore.render import tables


@click.group()
def image() -> None:
    """Keep images on this host: import, pull, ls, rm.

    \b
    quietcore image pull quay.io/containerdisks/fedora:42
    quietcore image import my/appliance:1 disk.qcow2
    """


@image.command("import")
@click.argument("reference")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.pass_obj
def import_image(app: App, reference: str, source: Path) -> None:
    """Store a disk image (raw, qcow2, ISO) or a directory tree (kernel, initrd) under an image name.

    Example: quietcore image import quay.io/containerdisks/fedora:42 fedora.qcow2
    """
    app.need_root("importing an image")
    stored = app.world.store.import_path(reference, source)
    click.echo(f"{stored.reference} imported")


@image.command("pull")
@click.argument("reference")
@click.option("--tls-verify/--no-tls-verify", default=True, help="Whether the registry must prove who it is.")
@click.pass_obj
def pull(app: App, reference: str, *, tls_verify: bool) -> None:
    """Fetch an image from a registry (with skopeo).

    Example: quietcore image pull quay.io/containerdisks/fedora:42
    """
    app.need_root("pulling an image")
    stored = app.world.store.pull(reference, tls_verify=tls_verify)
    click.echo(f"{stored.reference} pulled")


@image.command("ls")
@output_option("table", "json", "name")
@click.pass_obj
def ls(app: App, output: str) -> None:
    """List the stored images.

    Example: quietcore image ls
    """
    stored = app.world.store.list()
    match output:
        case "json":
            items = [_as_json(one) for one in stored]
            print_object("ImageList", {"items": items})
        case "name":
            for one in stored:
                click.echo(one.reference)
        case _:
            rows = [(one.reference, ", ".join(sorted(one.files)), tables.size(one.size_bytes)) for one in stored]
            click.echo(tables.table(("IMAGE", "FILES", "SIZE"), rows), nl=False)


@image.command("rm")
@click.argument("image_references", metavar="REFERENCE...", nargs=-1, required=True)
@click.pass_obj
def rm(app: App, image_references: tuple[str, ...]) -> None:
    """Remove images; one that a VM uses is kept and named.

    Example: quietcore image rm quay.io/containerdisks/fedora:42
    """
    app.need_root("removing an image")
    used = {name for entry in app.world.books.load().entries for name in references(entry.spec)}
    for reference in image_references:
        removed = app.world.store.remove(reference, used=used)
        click.echo(f"{removed.reference} removed")


def _as_json(stored: StoredImage) -> dict[str, object]:
    files = [{"path": path, "bytes": file.size_bytes, "sha256": file.sha256} for path, file in sorted(stored.files.items())]
    return {"reference": stored.reference, "files": files}
