"""The files that stack.yaml names: passwords, filter scripts, lists of addresses, certificates. It reads these, each to a limit, and nothing else."""

# ruff: noqa: D102  a method is called what it reads

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from stackctl import addresses
from stackctl.crosschecks import Checks
from stackctl.model import CommonFilters, HostUser, LoginHost, NextHop, Scripts, Stack, User, alias_target
from stackctl.problems import Place, Report, shown
from stackctl.tree import MAX_OCTETS, Mapping
from stackctl.validate import CONTROL

BCRYPT_OCTETS = 72  # bcrypt takes no more of a password than that
_LABELS = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
_HOST = re.compile(rf"[0-9a-f:.]+|{_LABELS}", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9.]+|[0-9a-f]*:[0-9a-f:.]*", re.IGNORECASE)
Person = TypeVar("Person", User, HostUser)


class Enclosed(Checks):
    """The checks of a stack whose files are read, too."""

    def __init__(self, stack: Stack, tree: Mapping, report: Report) -> None:
        super().__init__(stack, tree, report)
        self.files: list[Path] = []  # those that were read

    def includes(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """The targets in each file that a system alias includes: comments and empty lines left out, each one an address or a name."""
        found: dict[str, tuple[str, ...]] = {}
        for raw in self.alias_keys("system_aliases"):
            for index, target in enumerate(self.stack.system_aliases.get(raw.lower(), ())):
                name = target.removeprefix(addresses.INCLUDE)
                place: Place = ("system_aliases", raw, index)
                if target == name or name in found:
                    continue
                found[name] = ()
                if (text := self.text(folder / name, addresses.INCLUDE.strip(":"), place)) is not None:
                    found[name] = tuple(self.lines(text, name, place))
        return found

    def lines(self, text: str, name: str, place: Place) -> Iterator[str]:
        for number, line in enumerate(text.splitlines(), 1):
            for part in line.partition("#")[0].split(","):
                if written := part.strip():
                    try:
                        target = alias_target(written)
                        if target[0] in "|/:":  # local(8): allow_mail_to_commands and allow_mail_to_files leave :include: out
                            raise ValueError("an included file holds addresses and names only")
                        yield target
                    except ValueError as why:
                        self.bad(place, f"{name}:{number}: {why}", "an address or a name in each line")

    def passwords(self, folder: Path) -> tuple[User, ...]:
        """The users, with the passwords that are in files."""
        return tuple(self.password(user, user.address, ("users", number), folder) for number, user in enumerate(self.stack.users))

    def logins(self, folder: Path) -> LoginHost | None:
        """The login host, with the passwords that are in files."""
        host = self.stack.host
        return host and host.model_copy(
            update={"users": tuple(self.password(user, user.name, ("host", "users", number), folder) for number, user in enumerate(host.users))}
        )

    def password(self, user: Person, name: str, where: Place, folder: Path) -> Person:
        place: Place = (*where, "password_file" if user.password_file else "password")
        password = user.password
        if user.password is not None and user.password_file is not None:
            self.bad(place, f"user '{name}' has both password and password_file", "keep one of them")
        elif user.password_file is not None and (password := self.first_line(folder / user.password_file, place)) is not None:
            user = user.model_copy(update={"password": password})
        if password is not None and len(password.encode()) > BCRYPT_OCTETS:
            self.bad(place, f"the password of '{name}' is longer than {BCRYPT_OCTETS} octets, of which bcrypt would use no more", "shorten it")
        return user

    def filters(self, folder: Path, users: tuple[User, ...]) -> tuple[CommonFilters, tuple[User, ...]]:
        """The common filters and the users, with the texts of the scripts where their file names were."""
        common = self.stack.filters.model_copy(update=self.scripts(self.stack.filters, folder, ("filters",)))
        return common, tuple(
            user.model_copy(update={"filters": user.filters.model_copy(update=self.scripts(user.filters, folder, ("users", number, "filters")))})
            for number, user in enumerate(users)
        )

    def scripts(self, filters: Scripts, folder: Path, place: Place) -> dict[str, str | None]:
        named = {key: name for key in type(filters).model_fields if (name := getattr(filters, key)) is not None}
        return {key: self.text(folder / name, key, (*place, key)) for key, name in named.items()}

    def text(self, path: Path, what: str, place: Place) -> str | None:
        """A text file that stack.yaml names; None, with a problem, when there is none."""
        name = f"{what} '{shown(str(path))}'"
        content = self._octets(path, name, place, MAX_OCTETS + 1, "a text file")
        if content is not None and (len(content) > MAX_OCTETS or b"\0" in content):
            self.bad(place, f"{name} is {'larger than 1 MiB' if len(content) > MAX_OCTETS else 'no text: it holds NUL'}", "name a script")
            return None
        return self._decoded(content, name, place, "save it in that encoding")

    def next_hops(self, folder: Path) -> tuple[NextHop | None, dict[str, NextHop]]:
        """The relayhost and the routes, with the passwords and certificates that are in files."""
        stack = self.stack
        routes = {domain: self.next_hop(hop, ("routes", domain), folder) for domain, hop in stack.routes.items()}
        first: dict[tuple[str | None, str | None, int], NextHop] = {}
        for hop, place in [*([(stack.relayhost, ("relayhost",))] if stack.relayhost else []), *((hop, ("routes", domain)) for domain, hop in stack.routes.items())]:
            key = (hop.host, hop.stack, hop.port or (587 if hop.username else 25))
            if first.setdefault(key, hop) != hop:
                self.bad(place, f"{place[-1]}: the same host and port as another next hop, with another login or TLS", "give both the same, or another port")
        return stack.relayhost and self.next_hop(stack.relayhost, ("relayhost",), folder), routes

    def next_hop(self, hop: NextHop, place: Place, folder: Path) -> NextHop:
        name = ".".join(map(str, place))
        password = hop.password
        if hop.stack == self.stack.name:
            self.bad((*place, "stack"), f"{name}: '{hop.stack}' is this stack itself", "name another one: `stackctl ls` shows them")
        if not hop.host and not hop.stack:
            self.bad(place, f"{name} names no host", "give `host`, or another `stack`")
        elif hop.host and not _HOST.fullmatch(hop.host):
            self.bad((*place, "host"), f"{name}: '{shown(hop.host)}' is not a host", "a name or an address, without a scheme; `port` has its own key")
        elif hop.host and hop.security == "verify" and _ADDRESS.fullmatch(hop.host):
            self.bad((*place, "tls" if hop.tls else "host"), f"{name}: the certificate of an address cannot be verified", "give the host's name")
        if hop.mx and hop.stack:
            self.bad((*place, "mx"), f"{name}: another stack has no MX", "remove `mx`")
        if hop.password is not None and hop.password_file is not None:
            self.bad((*place, "password_file"), f"{name} has both password and password_file", "keep one of them")
        elif hop.password_file is not None:
            password = self.first_line(folder / hop.password_file, (*place, "password_file"))
        if (hop.password or hop.password_file) and not hop.username:
            self.bad(place, f"{name} has a password and no username", "give `username`")
        elif hop.username and not (hop.password or hop.password_file):
            self.bad((*place, "username"), f"{name} has a username and no password", "give `password_file`, whose first line is the password")
        if hop.username and (":" in hop.username or hop.username != hop.username.strip()):
            self.bad((*place, "username"), f"{name}: a username with ':' or a space at an end cannot be handed on", "")
        if password and password != password.rstrip():
            self.bad((*place, "password_file" if hop.password_file else "password"), f"{name}: the password ends with a space, which would be lost", "choose another")
        if password and self.mta and "next-hop-passwords-with-spaces" not in self.mta.provides and re.search(r"\s", password + (hop.username or "")):
            where = (*place, "password_file" if hop.password_file else "password")
            self.bad(where, f"{name}: {self.mta.family} takes no login with a space in it", "choose another, or another MTA")
        if hop.username and hop.tls in ("none", "may"):
            self.bad((*place, "tls"), f"{name}: with tls: {hop.tls} the password would go out in clear", "`tls: encrypt` or `tls: verify`")
        certificates = None
        if hop.ca_file and (certificates := self.text(folder / hop.ca_file, "ca_file", (*place, "ca_file"))) and "-----BEGIN CERTIFICATE-----" not in certificates:
            self.bad((*place, "ca_file"), f"{name}: '{shown(hop.ca_file)}' holds no certificate", "a PEM file, which begins with -----BEGIN CERTIFICATE-----")
        return hop.model_copy(update={"password": password, "ca_file": certificates})

    def first_line(self, path: Path, place: Place) -> str | None:
        """The password in a file; None, with a problem that does not quote it, when there is none."""
        name = f"password_file '{shown(str(path))}'"
        content = self._octets(path, name, place, 4096, "a file whose first line is the password")
        line = None if content is None else content.split(b"\n")[0].removesuffix(b"\r")
        password = self._decoded(line, name, place, "write the password alone in its first line")
        if password is None or (password and not CONTROL.search(password)):
            return password
        what = "holds a control character in its first line" if password else "has nothing in its first line"
        self.bad(place, f"{name} {what}", "write the password alone in its first line")
        return None

    def _octets(self, path: Path, name: str, place: Place, most: int, wanted: str) -> bytes | None:
        """The beginning of a file; None, with a problem, where it cannot be read."""
        try:
            if path.exists() and not path.is_file():
                raise IsADirectoryError  # or a pipe, which could keep us waiting
            self.files.append(path)
            with path.open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            self.bad(place, f"{name} does not exist", "it is looked for from the folder of stack.yaml")
        except IsADirectoryError:
            self.bad(place, f"{name} is not a file", f"name {wanted}")
        except (OSError, ValueError) as why:
            self.bad(place, f"{name} cannot be read: {getattr(why, 'strerror', None) or why}", "let your own account read it")
        return None

    def _decoded(self, content: bytes | None, name: str, place: Place, hint: str) -> str | None:
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError:
            self.bad(place, f"{name} is not UTF-8", hint)
            return None
