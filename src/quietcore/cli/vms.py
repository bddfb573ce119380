"""The verbs on VMs that there are: get, describe, verify, delete, console."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from quietcore.cli.context import App
from quietcore.cli.options import namespace_option, no_such_vm, output_option, print_value, read_manifests, text_of, vm_name
from quietcore.engine import VmView
from quietcore.errors import ExitCode, InputError, Problem
from quietcore.model import ThreadCensus
from quietcore.render import tables
from quietcore.render.values import Description, DescriptionList, VerificationList


@click.command()
@click.argument("kind", type=click.Choice(("vms", "vm")))
@click.argument("names", nargs=-1)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="VMs of every namespace.")
@output_option("table", "wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Print again whenever something changed, until interrupted.")
@click.pass_obj
def get(app: App, kind: str, names: tuple[str, ...], namespace: str, output: str, *, all_namespaces: bool, watch: bool) -> None:
    """List VMs: where each runs and how it is doing.

    Example: quietcore get vms -o wide
    """
    del kind
    last = ""
    while True:
        text = _listing(app, names, namespace, output, all_namespaces=all_namespaces)
        if text != last:
            click.echo(text, nl=False)
            last = text
        if not watch:
            return
        time.sleep(1.0)


def _listing(app: App, names: tuple[str, ...], namespace: str, output: str, *, all_namespaces: bool) -> str:
    views = [view for view in app.vms.views() if all_namespaces or view.entry.vm.namespace == namespace]
    wanted = {vm_name(name, namespace) for name in names}
    missing = sorted(wanted - {view.entry.vm for view in views})
    if missing:
        raise no_such_vm(*missing)
    listed = DescriptionList(items=tuple(_description(view) for view in views if not wanted or view.entry.vm in wanted))
    match output:
        case "json" | "yaml":
            return text_of(listed, output)
        case "name":
            return tables.names("vm", [one.entry.vm for one in listed.items])
        case _:
            if not listed.items:
                app.say(f"no VMs in namespace {namespace}" if not all_namespaces else "no VMs")
                return ""
            return tables.vms_table(listed, wide=output == "wide", all_namespaces=all_namespaces)


def _description(view: VmView, census: ThreadCensus | None = None) -> Description:
    return Description(entry=replace(view.entry, plan=view.plan), phase=view.phase, census=census)


def _view(app: App, name: str, namespace: str) -> VmView:
    vm = vm_name(name, namespace)
    view = app.vms.view(vm)
    if view is None:
        raise no_such_vm(vm)
    return view


@click.command()
@click.argument("name")
@namespace_option
@output_option("table", "json", "yaml")
@click.pass_obj
def describe(app: App, name: str, namespace: str, output: str) -> None:
    """Show one VM whole: its placement, its mechanism, every thread and where it may run.

    Example: quietcore describe rt1
    """
    view = _view(app, name, namespace)
    census = app.vms.observation(view.entry.vm).census if view.domain is not None else None
    description = replace(_description(view, census), care=app.care(view.entry.vm))
    if output == "table":
        click.echo(tables.describe_text(description), nl=False)
    else:
        print_value(description, output)


@click.command()
@click.argument("names", nargs=-1)
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="Delete the VMs that this manifest names.")
@namespace_option
@click.option(
    "--grace-period", type=click.IntRange(min=0), metavar="SECONDS", help="Time for the guest to power off (default: the manifest's)."
)
@click.option("--now", is_flag=True, help="Do not ask the guest; the same as --grace-period 0.")
@click.option("--ignore-not-found", is_flag=True, help="A VM that does not exist is fine.")
@click.pass_obj
def delete(
    app: App,
    names: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str,
    grace_period: int | None,
    *,
    now: bool,
    ignore_not_found: bool,
) -> None:
    """End VMs and remove every trace: domain, cgroups, files, and their CPUs go back to the pool.

    Example: quietcore delete rt1 --now
    """
    app.need_change("deleting a VM")
    wanted = [vm_name(name, namespace) for name in names]
    if files:
        wanted += [document.spec.vm for document in read_manifests(files, app.say).documents]
    if not wanted:
        raise InputError.of((Problem(message="name a VM or give -f FILE", code="usage", hint="see `quietcore delete --help`"),))
    missing = []
    for vm in wanted:
        if app.vms.delete(vm, grace_s=0 if now else grace_period):
            click.echo(f"vm/{vm.name} deleted")
        else:
            missing.append(vm)
    if missing and not ignore_not_found:
        raise no_such_vm(*missing)


@click.command()
@click.argument("name")
@namespace_option
@click.pass_obj
def console(app: App, name: str, namespace: str) -> None:
    """Attach this terminal to the guest's serial console; Ctrl-] leaves it.

    Example: quietcore console rt1
    """
    from quietcore.cli.console import attach  # needs a terminal's modules that no other command needs

    view = _view(app, name, namespace)
    if view.domain is None:
        raise InputError.of((Problem(message=f"{view.entry.vm} does not run: it is {view.phase}", code="not-running"),))
    stream = app.hypervisor.open_console(view.entry.domain)
    app.say(f"connected to {view.entry.vm}; Ctrl-] leaves")
    attach(stream)


@click.command()
@click.argument("names", nargs=-1)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="VMs of every namespace.")
@output_option("table", "json", "yaml")
@click.pass_obj
def verify(app: App, names: tuple[str, ...], namespace: str, output: str, *, all_namespaces: bool) -> int:
    """Read the kernel back: every thread's place, everybody else allowed on the VM's CPUs, quotas, partitions.

    Exit 0 when nothing is wrong, 1 when there is an error. Example: quietcore verify rt1
    """
    if names:
        views = [_view(app, name, namespace) for name in names]
    else:
        views = [view for view in app.vms.views() if all_namespaces or view.entry.vm.namespace == namespace]
    results = tuple(app.vms.verify(view) for view in views)
    if output != "table":
        print_value(results[0] if len(names) == 1 else VerificationList(items=results), output)
    else:
        click.echo("\n".join(tables.findings_text(result) for result in results), nl=False)
    return ExitCode.OK if all(result.ok for result in results) else ExitCode.FINDINGS
