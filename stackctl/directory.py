"""The directory of accounts of a running stack, by the verbs of its image. It never reads a password hash, and knows no server.

Accounts that were added there by its own tools stay: what is changed or taken away is what stackctl put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stackctl import backends, command, render, state
from stackctl.errors import EngineError
from stackctl.labels import VERBS
from stackctl.model import Stack


@dataclass(frozen=True)
class Entry:
    """What the directory is told of an account: the bcrypt hash of its password, and its quota in octets or None."""

    hash: str
    quota: int | None

    @property
    def fields(self) -> str:
        """Hash and quota as the verbs take them."""
        return f"{self.hash}\t{self.quota or ''}"


def there_is(known: state.State) -> bool:
    """Whether the stack keeps accounts in a directory."""
    return render.DIRECTORY in known.containers


def entries(stack: Stack, hashes: Mapping[str, str]) -> dict[str, Entry] | None:
    """The users of a stack who belong into its directory; None where it has none."""
    if not backends.directory(stack.accounts.backend):
        return None
    in_files = render.filed(stack)
    quotas = {user.address: (user.quota and user.quota.storage) or stack.mailbox_size_limit for user in stack.users}
    return {user.address: Entry(hashes[user.address], quotas[user.address]) for user in stack.users if user.address not in in_files}


def hand_in(known: state.State, wanted: Mapping[str, Entry], everything: bool = False) -> None:
    """Makes the directory have these accounts, and notes so in `known`: those that are new, changed or gone since the last time.

    With `everything`, those that are missing there too; one that was changed by other tools stays as it is.
    Raises EngineError where the directory does not take them.
    """
    gone = [address for address in known.handed if address not in wanted]
    new = [address for address in wanted if everything or address not in known.handed]
    changed = [address for address, entry in wanted.items() if known.handed.get(address, entry.fields) != entry.fields]
    if gone:
        _ask(known, "account-delete", gone)
    if new or everything:
        _ask(known, "account-add", [f"{address}\t{wanted[address].fields}" for address in new])
    if changed:
        _ask(known, "account-password", [f"{address}\t{wanted[address].fields}" for address in changed])
    known.handed = {address: entry.fields for address, entry in wanted.items()}


def reset(known: state.State) -> None:
    """Makes the directory hold what stackctl put in and nothing else, whatever was changed there by its own tools. Raises EngineError where it does not answer."""
    _ask(known, "account-delete", [address for address in listed(known) if address not in known.handed])
    entries = [f"{address}\t{fields}" for address, fields in known.handed.items()]
    _ask(known, "account-add", entries)
    _ask(known, "account-password", entries)


def listed(known: state.State) -> dict[str, int | None]:
    """Every account of the directory with its quota in octets, None for no limit. Raises EngineError where it does not answer."""
    rows = (line.partition("\t") for line in _ask(known, "account-list").splitlines())
    return {address: int(quota) if quota else None for address, _, quota in rows}


def set_password(known: state.State, address: str, hash_: str) -> None:
    """Gives an account another password hash. Raises EngineError where the directory does not take it."""
    _ask(known, "account-password", [f"{address}\t{Entry(hash_, None).fields}"])


def delete(known: state.State, address: str) -> None:
    """Takes an account away. Raises EngineError where the directory does not answer."""
    _ask(known, "account-delete", [address])


def _ask(known: state.State, verb: str, lines: Iterable[str] = ()) -> str:
    """Runs a verb of the directory's image: lines go to its standard input, for whoever lists processes sees arguments."""
    argv = ["docker", "exec", "-i", known.containers[render.DIRECTORY], f"{VERBS}/{verb}"]
    done = command.run(argv, stdin="".join(f"{line}\n" for line in lines).encode(), check=False)
    if done.status != 0:
        hint = f"`stackctl up` starts it where it is down; `stackctl logs {render.DIRECTORY}` shows more"
        raise EngineError(f"{render.DIRECTORY}: the verb {verb} failed ({done.status}): {done.last_words}", hint)
    return done.text
