"""A stack in the conventions of the testcontainers library, without a stack.yaml. It starts no Ryuk: what a killed test run left is removed by the next.

>>> import poplib, smtplib, ssl
>>> from stackctl.testcontainers import MailStack
>>> with MailStack().with_user("alice@example.test", "secret").with_store("dovecot") as mail:
...     with smtplib.SMTP(mail.get_container_host_ip(), mail.get_exposed_port(25)) as smtp:
...         smtp.sendmail("shop@elsewhere.example", ["alice@example.test"], "Subject: Welcome\\r\\n\\r\\nHello.\\r\\n")
...     mail.wait_for("alice@example.test", subject="Welcome").subject
...     trusted = ssl.create_default_context(cafile=mail.ca_file)
...     pop3 = poplib.POP3_SSL("localhost", mail.get_exposed_port(995), context=trusted)
...     greeting = pop3.user("alice@example.test"), pop3.pass_("secret")
...     mail.reset()
...     pop3.quit()[:3]
{}
'Welcome'
b'+OK'

Besides MailStack there is a class for each mail server, named after it: PostfixContainer, DovecotContainer, CourierContainer. Such a container is a
stack too, for no store has mail without an MTA: one with this server alone in its role, whose ports are those that `get_exposed_port` knows.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import yaml
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from stackctl import backends, contents, inventory, reset, running, stack, state
from stackctl.clients.message import Summary
from stackctl.clients.probe import probe
from stackctl.clients.where import Tls, Where, open_listeners
from stackctl.errors import UsageError

_NAME = re.compile(r"tc-(?P<pid>[0-9]+)-[0-9]+")
_number = itertools.count(1)


class MailStack:
    """A whole mail system: the default stack, unless `with_…` says otherwise. A context manager; leaving it removes everything, mail too.

    `keys` are those of stack.yaml: `MailStack(domain="shop.test", stores=[{"backend": "dovecot"}])`.
    """

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.name = f"tc-{os.getpid()}-{next(_number)}"
        self._service = ""  # whose ports are meant where nothing else is said
        self._strategy: WaitStrategy | None = None
        self._known: state.State | None = None
        self._folder: str | None = None

    def with_name(self, name: str) -> Self:
        """Another name than one that is made. Such a stack is not removed by the next run where this one is killed."""
        self.name = name
        return self

    def with_user(self, address: str, password: str | None = None, **keys: Any) -> Self:
        """One more user; the first replaces the built-in alice and bob. `keys` are those of a user in stack.yaml."""
        self.keys["users"] = [*self.keys.get("users", ()), {"address": address, **({"password": password} if password else {}), **keys}]
        return self

    def with_store(self, backend: str, **keys: Any) -> Self:
        """One more store; the first replaces the built-in ones. `keys` are those of a store in stack.yaml, such as `version="2.3"`."""
        self.keys["stores"] = [*self.keys.get("stores", ()), {"backend": backend, **keys}]
        return self

    def with_keys(self, **keys: Any) -> Self:
        """Further keys of stack.yaml, in the place of those that were given."""
        self.keys |= keys
        return self

    def waiting_for(self, strategy: WaitStrategy) -> Self:
        """What `start` waits for besides what it always does: that every port answers, and mail flows."""
        self._strategy = strategy
        return self

    def start(self) -> Self:
        """Brings the stack up. Raises BadStack for keys that are not right, EngineError and TimedOut; nothing is left then."""
        _remove_abandoned()
        self._folder = tempfile.mkdtemp(prefix="stackctl-")
        file = Path(self._folder) / "stack.yaml"
        try:
            file.write_text(yaml.safe_dump(self.keys), encoding="utf-8")
            self._known = stack.up(file, self.name).state
            if self._strategy:
                self._strategy.wait_until_ready(self)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Removes the stack with all that it holds; nothing where it is not there."""
        running.down(self.name, volumes=True)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._known = self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def state(self) -> state.State:
        """What the functions of stackctl want of a stack, such as those of stackctl.live. Raises UsageError where it was not started."""
        if not self._known:
            raise UsageError(f"{type(self).__name__} was not started", "use it in a with statement, or call start()")
        return self._known

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where everything is, passwords too, as `stackctl endpoints --json --secrets` says it."""
        return running.endpoints(self.state, secrets=True)

    @property
    def ca_file(self) -> str:
        """The certificate of the local CA, by which the servers' own verify for the name `tls_name` of the endpoints."""
        return str(self.state.endpoints["ca"])

    def password(self, address: str) -> str:
        """The password of a user, or of any address of the disposable domain."""
        return running.password_of(self.state, address)

    def get_container_host_ip(self) -> str:
        """The address at which the ports are."""
        return next(str(host) for part in state.parts(self.state.endpoints).values() for host, _ in open_listeners(part).values())

    def get_exposed_port(self, port: int | str) -> int:
        """The port on this machine for one inside: 25, 993; or for a listener by its name, "submission", "courier.imaps" where several have one.

        Raises UsageError where no server has it open.
        """
        service, _, wanted = str(port).rpartition(".")
        for name, part in state.parts(self.state.endpoints).items():
            known = backends.all_backends()[part["backend"]].listeners
            for listener, (_, here) in open_listeners(part).items():
                if (service or self._service or name) == name and wanted in (listener, str(known[listener].port)):
                    return int(here)
        raise UsageError(f"no server of {self.name} has the port {port} open", "`endpoints` has every listener")

    def get_wrapped_container(self) -> Any:
        """The container of the docker library: of the MTA, or of the server that the class is named after."""
        return inventory.client().containers.get(self.state.containers[self._service or "mta"])

    def get_logs(self) -> tuple[bytes, bytes]:
        """What that container wrote so far: standard output, standard error."""
        one = self.get_wrapped_container()
        return one.logs(stderr=False), one.logs(stdout=False)

    def reload(self) -> None:
        """Nothing: what is asked for is asked anew each time."""

    @property
    def status(self) -> str:
        """The engine's word for that container: running, paused, exited."""
        return str(self.get_wrapped_container().status)

    def wait_for(self, address: str, subject: str | None = None, store: str | None = None, timeout: float = 30) -> Summary:
        """The first message in an INBOX whose subject the regular expression matches; it is waited for. Raises TimedOut, which says what is there."""
        from stackctl.clients.imap import Imap

        chosen = store or next(iter(self.state.endpoints["stores"]))
        with Imap(Where.of(self.state.endpoints, chosen, "imaps")) as imap:
            imap.login(address, self.password(address))
            return imap.wait(subject=subject, timeout=timeout)[0]

    def reset(self, level: reset.Level = "messages") -> None:
        """Puts the stack back to where its tests began: `stackctl reset`."""
        reset.reset(self.state, level)

    def snapshot(self, name: str) -> None:
        """Keeps all mail aside, in the place of what is kept under that name."""
        contents.save(self.state, name, replace=True)

    def restore(self, name: str) -> None:
        """Makes queue and mailboxes what they were at a snapshot."""
        contents.restore(self.state, name)


class ServerContainer(MailStack):
    """A stack with one server alone in its role, which its ports, logs and status are of. Made by its own name: see the module."""

    family = ""

    def __init__(self, version: str | None = None, **keys: Any) -> None:
        role = "store" if self.family in backends.choices("store") else "mta"  # Courier, which is both, is known for its mailboxes
        chosen = {"backend": self.family, **({"version": version} if version else {})}
        super().__init__(**{"mta": chosen} if role == "mta" else {"stores": [{"name": "store", **chosen}]}, **keys)
        self._service = role


def __getattr__(name: str) -> type[ServerContainer]:
    for backend in backends.all_backends().values():
        if backend.role in ("mta", "store") and name == f"{backend.family.capitalize()}Container":
            return type(name, (ServerContainer,), {"family": backend.family, "__doc__": f"{backend.summary}: a stack with it."})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Greeting(WaitStrategy):
    """Waits until a server greets in its protocol at a port of any container, of this module or of the library."""

    protocol = ""

    def __init__(self, port: int, tls: Tls = "none", ca_file: str | None = None, name: str = "localhost") -> None:
        super().__init__()
        self.port, self.tls, self.name = port, tls, name
        self.ca = Path(ca_file) if ca_file else None

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        """Raises TimedOut with the last thing that was seen, or TlsFailed for a certificate that does not verify."""
        where = Where(container.get_container_host_ip(), int(container.get_exposed_port(self.port)), self.tls, self.name, self.ca)

        def gone() -> str | None:
            container.reload()
            return None if container.status in ("created", "running", "restarting") else f"the container is {container.status}"

        probe(where, self.protocol, time.monotonic() + self._startup_timeout, gone, f"{self.protocol} at port {self.port}")


class SmtpWaitStrategy(_Greeting):
    """Waits for an SMTP server: 220."""

    protocol = "smtp"


class ImapWaitStrategy(_Greeting):
    """Waits for an IMAP server: * OK."""

    protocol = "imap"


class Pop3WaitStrategy(_Greeting):
    """Waits for a POP3 server: +OK."""

    protocol = "pop3"


def _remove_abandoned() -> None:
    """Removes the stacks of processes of this machine that ended without a word: those whose state is in the same folder as ours."""
    for name in state.names():
        if (found := _NAME.fullmatch(name)) and not _alive(int(found["pid"])):
            running.down(name, volumes=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
