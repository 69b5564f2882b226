# SPDX-License-Identifier: LGPL-2.1-or-later
"""machctl image ls, show, pull, build, rm, prune, refresh, import, export"""

from __future__ import annotations

import os
import time
from typing import Any

from machines.cli import words
from machines.cli.output import note, say, show_object, show_rows
from machines.cli.plans import show_plan
from machines.cli.progress import Progress
from machines.cli.running import run
from machines.cli.several import exit_status
from machines.cli.verbs.create import SOURCE_HELP, machine_of
from machines.cli.wire import RealHost
from machines.errors import Conflict, InvalidValue, NotPermitted
from machines.model.base import Base
from machines.model.machine import Machine
from machines.model.names import check_kept_name
from machines.operations import images
from machines.operations.declared import stale_after

COLUMNS = ("image", "source", "os", "size", "age", "users")


def _complete(incomplete: str) -> list[str]:
    try:
        bases = RealHost().storage.bases()
    except NotPermitted:
        return []
    return [base.short for base in bases.values() if base.short.startswith(incomplete)]


def _image(help: str) -> Any:
    return words.Argument(..., metavar="IMAGE", help=help, autocompletion=_complete)


def _max_age() -> Any:
    return words.Option(None, "--max-age", metavar="DAYS", help="Older ones are stale; 30, or as [images] says.")


def ls(context: words.Context, max_age: float = _max_age()) -> None:
    """List what machines are copied from."""
    options = context.obj
    host = RealHost()
    found = images.images(host, max_age=stale_after(host) if max_age is None else max_age)
    if options.output == "name":
        say("\n".join(status.base.short for status in found))
        return
    if options.output != "table":
        show_rows([status.row() for status in found], COLUMNS, options)
        return
    rows = [
        {
            "image": status.base.short,
            "source": status.base.source,
            "os": status.base.os or None,
            "size": size(status.base.size),
            "age": shown_age((time.time() - status.base.created) / 86400) + " stale" * status.stale,
            "users": list(status.users),
        }
        for status in found
    ]
    show_rows(rows, COLUMNS, options, empty="no images; the first machine makes one: machctl create debian")


def show(context: words.Context, image: str = _image("The image."), max_age: float = _max_age()) -> None:
    """Show all that is known of an image, for programs."""
    host = RealHost()
    base = images.find_image(image, host)
    (status,) = (
        status
        for status in images.images(host, max_age=stale_after(host) if max_age is None else max_age)
        if status.base.id == base.id
    )
    show_object({**status.row(), "path": host.storage.base_path(base)}, context.obj)


def pull(
    context: words.Context,
    source: str = words.Argument(..., metavar="SOURCE", help=SOURCE_HELP),
    name: str = words.Option("", "--name", metavar="NAME", help="What it is called: image:NAME is a source then."),
    mirror: str = words.Option(None, "--mirror", metavar="URL", help="Fetch packages from here."),
    checksum: str = words.Option(None, "--checksum", metavar="SHA256", help="What a tar: or raw: has to be."),
    insecure: bool = words.Option(False, "--insecure", help="Take what comes, without checksum or signature."),
    fresh: bool = words.Option(False, "--fresh", help="Make it anew, also if it is kept."),
) -> None:
    """Have what machines are copied from ready before the first of them is made."""
    machine = machine_of(source=source, name="image", mirror=mirror, checksum=checksum, insecure=insecure)
    _pull(context, machine, name, fresh=fresh)


def build(
    context: words.Context,
    name: str = words.Argument(..., metavar="NAME", help="What it is called: image:NAME is a source then."),
    source: str = words.Argument(..., metavar="SOURCE", help=SOURCE_HELP),
    package: list[str] = words.Option([], "--package", metavar="PACKAGE", help="Install this package too."),
    mirror: str = words.Option(None, "--mirror", metavar="URL", help="Fetch packages from here."),
    variant: str = words.Option("minbase", "--variant", metavar="VARIANT", help="As create has it."),
    keyring: str = words.Option(None, "--keyring", metavar="FILE", help="Trust these keys, not the distribution's."),
    insecure: bool = words.Option(False, "--insecure", help="Take what comes, without checksum or signature."),
    fresh: bool = words.Option(False, "--fresh", help="Make it anew, also if it is kept."),
) -> None:
    """Make an image with packages of your own, under a name."""
    machine = machine_of(
        source=source,
        name="image",
        mirror=mirror,
        packages=package,
        variant=variant,
        keyring=keyring,
        insecure=insecure,
    )
    _pull(context, machine, check_kept_name(name, what="an image"), fresh=fresh)


def import_(
    context: words.Context,
    name: str = words.Argument(..., metavar="NAME", help="What it is called."),
    file: str = words.Argument(..., metavar="FILE", help="A root tree's tar, a disk image, an OCI layout or archive."),
    checksum: str = words.Option(None, "--checksum", metavar="SHA256", help="What it has to be."),
) -> None:
    """Take an archive in as an image."""
    path = os.path.abspath(os.path.expanduser(file))
    kind = RealHost().archives.kind(path)
    machine = machine_of(source=f"{kind}:{path}", name="image", checksum=checksum)
    _pull(context, machine, check_kept_name(name, what="an image"), fresh=False)


def export(
    context: words.Context,
    image: str = _image("The image."),
    file: str = words.Argument(..., metavar="FILE", help="The archive, as in base.tar.zst; - is stdout."),
    form: str = words.Option("tar", "--format", metavar="tar|oci", help="A tar of the tree, or an OCI image."),
) -> None:
    """Write an image into an archive."""
    options = context.obj
    if form not in {"tar", "oci"}:
        raise InvalidValue(f"{form!r} is no format of an archive", hint="use --format tar or oci")
    host, progress = RealHost(), Progress(options)
    base = images.find_image(image, host)
    if base.kind == "raw":
        raise Conflict(f"image {base.short} is a disk image already", hint=f"cp {host.storage.base_path(base)} {file}")
    path = file if file == "-" else os.path.abspath(os.path.expanduser(file))
    try:
        run(
            host.archives.pack(
                host.storage.base_path(base), path, form=form, name=base.short, declaration="",
                payload=base.payload, progress=lambda *stage: progress.progress(base.short, *stage),
            ),
            timeout=options.timeout,
            what=f"image export {image}",
            afterwards=f"{file} was not written",
        )  # fmt: skip
    finally:
        progress.clear()
    if not options.quiet and file != "-":
        note(f"exported image {base.short} to {file}")


def rm(
    context: words.Context,
    image: list[str] = words.Argument(..., metavar="IMAGE...", help="Those to remove.", autocompletion=_complete),
) -> None:
    """Remove images that no machine was copied from."""
    options = context.obj
    plan = run(
        images.remove(image, RealHost(), Progress(options), dry_run=options.dry_run),
        timeout=options.timeout,
        what="image rm",
    )
    if options.dry_run:
        show_plan({"images": plan}, options)
    elif not options.quiet:
        note(f"removed {', '.join(image)}")


def prune(
    context: words.Context,
    all: bool = words.Option(False, "--all", "-a", help="Every image that no machine was copied from."),
    max_age: float = _max_age(),
) -> None:
    """Remove images that no machine was copied from: superseded and stale ones."""
    options = context.obj
    host = RealHost()
    age = stale_after(host) if max_age is None else max_age
    plan = run(
        images.prune(host, Progress(options), everything=all, max_age=age, dry_run=options.dry_run),
        timeout=options.timeout,
        what="image prune",
    )
    if options.dry_run:
        show_plan({"images": plan}, options)
    elif not options.quiet:
        note(f"removed {len(plan)} images" if len(plan) != 1 else "removed 1 image")


def refresh(
    context: words.Context,
    image: list[str] = words.Argument(None, metavar="[IMAGE]...", help="These; all that are stale if left out."),
    max_age: float = _max_age(),
) -> None:
    """Make images anew from where they came from. Machines stay as they are; new ones are copied from the new image."""
    options = context.obj
    host, progress = RealHost(), Progress(options)
    age = stale_after(host) if max_age is None else max_age
    try:
        made, failed = run(
            images.refresh(image or [], host, progress, max_age=age, dry_run=options.dry_run),
            timeout=options.timeout,
            what="image refresh",
        )
    finally:
        progress.clear()
    word = "would refresh" if options.dry_run else "refreshed"
    for base in made if not options.quiet else ():
        note(f"{word} {base.short} ({base.source})")
    if not made and not failed and not options.quiet:
        note("no image is stale")
    raise words.Exit(exit_status(failed, len(made) + len(failed)))


def _pull(context: words.Context, machine: Machine, name: str, *, fresh: bool) -> None:
    options = context.obj
    progress = Progress(options)
    try:
        made = run(
            images.pull(machine, name, RealHost(), progress, fresh=fresh, dry_run=options.dry_run),
            timeout=options.timeout,
            what=f"image {machine.source}",
            afterwards="nothing of it is left",
        )
    finally:
        progress.clear()
    if isinstance(made, Base):
        if not options.quiet:
            note(f"image {made.short} is {made.source}, {size(made.size)}")
        if options.output == "name":
            say(made.short)
    else:
        show_plan({str(machine.source): made}, options)


def size(count: int) -> str:
    """Give bytes as people read them."""
    return (
        f"{count / 2**30:.1f} GB"
        if count >= 2**30
        else f"{count / 2**20:.0f} MB"
        if count >= 2**20
        else f"{count // 1024} kB"
    )


def shown_age(days: float) -> str:
    """Give a time in days as people say it."""
    hours = days * 24
    return f"{days:.0f} days" if days >= 2 else f"{hours:.0f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"


VERBS = {
    "ls": ls,
    "show": show,
    "pull": pull,
    "build": build,
    "rm": rm,
    "prune": prune,
    "refresh": refresh,
    "import": import_,
    "export": export,
}
ALIASES = {"list": "ls", "inspect": "show", "remove": "rm", "load": "import", "save": "export"}
