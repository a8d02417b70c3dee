"""Commands that drive the MTA of a running stack and its queue: start, stop, reload; list, hold, delete. They decide nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import File, Json, Name
from stackctl.errors import CheckFailed

if TYPE_CHECKING:
    from stackctl import queue

QUEUES = ("active", "deferred", "hold")  # what is shown also where it is empty
Id = Annotated[str, typer.Argument(metavar="ID", help="A message's queue id, as `queue list` shows it.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Queue ids, as `queue list` shows them; or ALL.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    driving = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Start, stop, reload and check the MTA of a stack.\n\nExample: stackctl mta status")
    for command in (status, start, reload, abort, check):
        driving.command()(command)
    driving.command()(stop)
    driving.command("flush")(flush_mta)
    app.add_typer(driving, name="mta")
    queueing = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show the queue of the MTA, and change it.\n\nExample: stackctl queue list")
    queueing.command("list")(list_queue)
    queueing.command("show")(show_message)
    queueing.command()(flush)
    for change in (hold, release, requeue, delete):
        queueing.command()(change)
    app.add_typer(queueing, name="queue")


def status(file: File = None, name: Name = None, json: Json = False) -> None:
    """Show whether the MTA runs, its processes and what is in its queue; exit code 1 when it does not run.

    Example: stackctl mta status
    """
    from stackctl import mta, running

    known = running.named(name, file)
    found = mta.status(known)
    if json:
        show.as_json(asdict(found))
    elif found.running:
        show.line(f"{known.name}: the MTA runs since {found.since}")
        show.line(f"processes  {mta.counted(found.processes)}")
        show.line(f"queue      {mta.counted(found.queue, QUEUES)}")
    else:
        show.line(f"{known.name}: the MTA is {found.state} since {found.since}")
    if not found.running:
        hint = "`stackctl resume` wakes it" if found.state == "paused" else "`stackctl mta start` starts it"
        raise CheckFailed(f"the MTA of {known.name} does not run ({found.state})", hint)


def start(file: File = None, name: Name = None, json: Json = False) -> None:
    """Start a stopped MTA, at the ports that it had; ends when it answers there.

    Example: stackctl mta start
    """
    from stackctl import mta, running

    known = running.named(name, file)
    changed = mta.start(known)
    _said(json, known.name, "runs" if changed else "runs already", changed)


def stop(
    timeout: Annotated[int, typer.Option("--timeout", min=1, max=100, help="Seconds for the deliveries under way; where they take longer, the MTA runs on.")] = 60,
    file: File = None,
    name: Name = None,
    json: Json = False,
) -> None:
    """Stop the MTA gracefully: what is being delivered is finished first, the rest waits in the queue for the next start.

    Example: stackctl mta stop --timeout 10
    """
    from stackctl import mta, running

    known = running.named(name, file)
    mta.stop(known, timeout)
    _said(json, known.name, "has stopped")


def abort(file: File = None, name: Name = None, json: Json = False) -> None:
    """Stop the MTA at once; no accepted message is lost, but one that was being delivered may be delivered again.

    Example: stackctl mta abort
    """
    from stackctl import mta, running

    known = running.named(name, file)
    mta.abort(known)
    _said(json, known.name, "was aborted")


def reload(file: File = None, name: Name = None, json: Json = False) -> None:
    """Have the MTA read its configuration, tables and certificates again; exit code 1 where they are at fault, and it goes on with what it had.

    Example: stackctl mta reload
    """
    from stackctl import mta, running

    known = running.named(name, file)
    mta.reload(known)
    _said(json, known.name, "has read its configuration again")


def check(file: File = None, name: Name = None, json: Json = False) -> None:
    """Let the running MTA's own checkers look at its configuration; exit code 1 where they complain.

    Example: stackctl mta check
    """
    from stackctl import mta, running

    content, said = mta.check(running.named(name, file))
    if json:
        show.as_json({"ok": content, "said": said.splitlines()})
    elif said:
        show.line(said)
    if not content:
        raise CheckFailed("the MTA complains about its configuration", "`stackctl render` shows its files, `stackctl up` renews them")
    if not json:
        show.line("The MTA is content with its configuration.")


def flush_mta(file: File = None, name: Name = None, json: Json = False) -> None:
    """Try to deliver all waiting mail at once, as `queue flush` does.

    Example: stackctl mta flush
    """
    flush(file, name, json)


def _said(json: bool, name: str, what: str, changed: bool = True) -> None:
    if json:
        show.as_json({"name": name, "done": what, "changed": changed})
    else:
        show.line(f"The MTA of {name} {what}.")


def list_queue(file: File = None, name: Name = None, json: Json = False) -> None:
    """List what is in the queue: a line for each recipient, with the reason why it waits.

    Example: stackctl queue list --json
    """
    from stackctl import queue, running

    found = queue.messages(running.named(name, file))
    if json:
        show.as_json([asdict(one) for one in found])
    elif not found:
        show.line("The queue is empty.")
    else:
        show.table(("ID", "QUEUE", "ARRIVED", "OCTETS", "SENDER", "RECIPIENT", "STORE", "REASON"), [row for one in found for row in _rows(one)])


def _rows(one: queue.Message) -> list[tuple[str, ...]]:
    about = (one.queue_id, one.queue_name, one.arrival_time, str(one.message_size), one.sender or "<>")
    # A message that is being taken in, or has gone to all of them, has no recipient yet or any more.
    return [(*about, to.address, to.store or "", to.delay_reason or "") for to in one.recipients] or [(*about, "", "", "")]


def show_message(queue_id: Id, file: File = None, name: Name = None, json: Json = False) -> None:
    """Show a message in the queue, envelope and content; with --json the content in `message`.

    Example: stackctl queue show 4C6591900AA
    """
    from stackctl import queue, running

    known = running.named(name, file)
    if json:
        show.as_json({**asdict(queue.message(known, queue_id)), "message": queue.text(known, queue_id, content=True)})
    else:
        show.line(queue.text(known, queue_id).rstrip("\n"))


def flush(file: File = None, name: Name = None, json: Json = False) -> None:
    """Try to deliver all waiting mail at once, also to a store that was taken for dead; what is on hold stays.

    Example: stackctl queue flush
    """
    from stackctl import queue, running

    waiting = queue.flush(running.named(name, file))
    if json:
        show.as_json({"done": "flush", "messages": waiting})
    else:
        show.line(f"Delivery is tried at once: {_number(waiting)} in the queue.")


def hold(queue_ids: Ids, file: File = None, name: Name = None, json: Json = False) -> None:
    """Keep messages from being delivered until they are released.

    Example: stackctl queue hold 4C6591900AA
    """
    _change("hold", "put on hold", queue_ids, file, name, json)


def release(queue_ids: Ids, file: File = None, name: Name = None, json: Json = False) -> None:
    """Have messages delivered that were on hold.

    Example: stackctl queue release ALL
    """
    _change("release", "released", queue_ids, file, name, json)


def requeue(queue_ids: Ids, file: File = None, name: Name = None, json: Json = False) -> None:
    """Let messages go through the address rewriting of now, as if they had just come; each gets a new id.

    Example: stackctl queue requeue 4C6591900AA
    """
    _change("requeue", "requeued", queue_ids, file, name, json)


def delete(queue_ids: Ids, file: File = None, name: Name = None, json: Json = False) -> None:
    """Delete messages from the queue for good; neither sender nor recipient is told. All of them only where you say ALL.

    Example: stackctl queue delete 4C6591900AA
    """
    _change("delete", "deleted", queue_ids, file, name, json)


def _change(action: queue.Action, what: str, queue_ids: list[str], file: File, name: Name, json: bool) -> None:
    from stackctl import queue, running

    changed = queue.change(running.named(name, file), action, queue_ids)
    if json:
        show.as_json({"done": action, "messages": changed})
    else:
        show.line(f"{_number(changed)} {what}.")


def _number(messages: int) -> str:
    return "1 message" if messages == 1 else f"{messages} messages"
