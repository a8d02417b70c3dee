"""Commands for stack.yaml and what is made from it: init, schema, render, check, build, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import CheckFailed, UsageError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (init, schema, render, check, build):
        app.command()(command)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Take a stack elsewhere.\n\nExample: stackctl export compose --output compose.yaml")
    group.command("compose")(export_compose)
    app.add_typer(group, name="export")


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("stack.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    name: Name = None,
    json: Json = False,
) -> None:
    """Write a stack.yaml in which every key is explained.

    Example: stackctl init --name shop
    """
    from stackctl.schema import commented

    text = commented()
    if name:
        from stackctl import model

        try:
            text = text.replace("name: demo", f"name: {model.name(name)}", 1)
        except ValueError as why:
            raise UsageError(str(why)) from why
    try:
        with path.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already", "name another file, or say --force") from None
    except OSError as why:
        raise UsageError(f"{path}: {why.strerror}", "name a file in a folder that you may write to") from why
    if json:
        show.as_json({"path": str(path)})
    else:
        show.line(f"{path} written. `stackctl up` brings it up.")


def schema(name: Name = None, json: Json = True) -> None:
    """Print the JSON Schema of stack.yaml, for editors that complete and check it.

    Example: stackctl schema > stack.schema.json
    """
    from stackctl.schema import json_schema

    show.as_json(json_schema())


def render(
    file: File = None,
    name: Name = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only what `up` would change in the running services; exit code 1 if anything.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write the files below this folder.")] = None,
    json: Json = False,
) -> None:
    """Show every configuration file that a stack.yaml gives. Password hashes are masked, keys left out.

    Example: stackctl render --output rendered/
    """
    from stackctl import preview

    if diff:
        found = preview.differences(file, name)
        if json:
            show.as_json(found)
        else:
            show.line("\n".join(found.values()) or "nothing would change.")
        raise typer.Exit(1 if found else 0)
    plan = preview.preview(file, name)
    files = {f"{service}/{path}": one.content.decode() for service, tree in plan.files.items() for path, one in sorted(tree.items())}
    if output:
        for path, text in files.items():
            target = output / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            except OSError as why:
                raise UsageError(f"{target}: {why.strerror}", "name a folder that you may write to") from why
    if json:
        show.as_json(files)
    elif output:
        show.line(f"{len(files)} files written below {output}.")
    else:
        for path, text in files.items():
            show.line(f"==> {path} <==\n{text}")


def check(file: File = None, name: Name = None, json: Json = False) -> None:
    """Let each server's own checker look at the files that stack.yaml gives; exit code 1 if one complains.

    Example: stackctl check --file stack.yaml
    """
    from stackctl import preview

    with show.progress(quiet=json) as report:
        found = preview.check(file, name, report)
    if json:
        show.as_json({service: {"ok": good, "output": output} for service, (good, output) in found.items()})
    else:
        for service, (good, output) in found.items():
            show.line(f"{service}: {'ok' if good else 'FAILED'}" + (f"\n{output}" if output else ""))
    if bad := [service for service, (good, _) in found.items() if not good]:
        raise CheckFailed(f"the configuration of {', '.join(bad)} is not right", "the lines above are the server's own words; `stackctl render` shows the files")


def build(
    file: File = None,
    name: Name = None,
    everything: Annotated[bool, typer.Option("--all", help="Every backend, not only those of the stack.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build also what is there already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only name the images: their tags change with what is in them, so they are keys for a cache.")] = False,
    json: Json = False,
) -> None:
    """Build the images that a stack needs, in parallel; those that are there are left alone.

    Example: stackctl build --all
    """
    from stackctl import backends, images, load
    from stackctl import render as rendering

    loaded = load.load(file)
    chosen = list(backends.all_backends().values()) if everything else [service.backend for service in rendering.services(loaded.stack)]
    if dry_run:
        named = {backend.name: images.tag(backend, loaded.stack.debian) for backend in chosen}
        show.as_json(named) if json else show.table(("BACKEND", "IMAGE"), list(named.items()))
        return
    with show.progress(quiet=json) as report:
        tags = images.build(chosen, loaded.stack.debian, lambda progress: report(str(progress)), force=force)
    if json:
        show.as_json(tags)
    else:
        show.table(("BACKEND", "VERSION", "IMAGE"), [(backend, images.version_of(tag), tag) for backend, tag in tags.items()])


def export_compose(
    file: File = None,
    name: Name = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; readable by you alone, for it holds keys.")] = Path("compose.yaml"),
    json: Json = False,
) -> None:
    """Write one file that `docker compose up` runs without stackctl.

    Example: stackctl export compose --output compose.yaml
    """
    from stackctl import export

    export.write(file, name, output)
    if json:
        show.as_json({"path": str(output)})
    else:
        show.line(f"{output} written: `docker compose -f {output} up` runs the stack from it. It holds the private key and password hashes: keep it to yourself.")
