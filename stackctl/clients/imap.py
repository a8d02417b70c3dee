"""An IMAP client (RFC 3501) for tests: exact octets out, and a wait that sees a message within milliseconds of its delivery."""

from __future__ import annotations

import contextlib
import imaplib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from stackctl.clients.message import Summary, summary
from stackctl.clients.transcript import AuthRefused, Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut

POLL = 0.005  # seconds between two NOOPs: a delivery is seen at most that late, and a server answers one in under 1 ms
_IDLE_ROUND = 600.0  # seconds; RFC 2177: a client should end IDLE before 29 minutes

imaplib._MAXLINE = 20_000_000  # type: ignore[attr-defined]  # a SEARCH over a large mailbox is one line


class _Library(imaplib.IMAP4):
    """imaplib on a recorded socket."""

    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript = where, transcript
        super().__init__(where.host, where.port, timeout)
        self.host = where.name
        if where.tls == "starttls":
            if "STARTTLS" not in self.capabilities:
                raise StackctlError(f"{where}: the server does not offer STARTTLS", "something between may have taken it out: do not send a password")
            secure: Any = Context(where, transcript)
            self.starttls(ssl_context=secure)

    def _create_socket(self, timeout: float | None) -> Any:
        sock = connect(self._where, self._transcript, timeout or 60)
        return Context(self._where, self._transcript).wrap_socket(sock) if self._where.tls == "implicit" else sock


class _Client(IMAPClient):  # type: ignore[misc]
    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript, self._seconds = where, transcript, timeout
        super().__init__(where.host, where.port, ssl=False, timeout=timeout)

    def _create_IMAP4(self) -> Any:
        return _Library(self._where, self._transcript, self._seconds)


class Imap:
    """A session that has greeted, and is inside TLS where the listener has it. A context manager; leaving it logs out.

    Every method raises StackctlError (TlsFailed, AuthRefused, TimedOut are kinds of it) and nothing of the libraries below.
    """

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
        self._quick_socket = True
        with self._guard("connect"):
            self.library = _Client(where, self.transcript, timeout)

    def __enter__(self) -> Imap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Logs out where the connection still stands, and closes it."""
        with contextlib.suppress(IMAPClientError, imaplib.IMAP4.error, OSError):
            self.library.logout()
        with contextlib.suppress(OSError, AttributeError):
            self.library.shutdown()

    @property
    def capabilities(self) -> set[str]:
        """What the server announces now, in upper case."""
        with self._guard("CAPABILITY"):
            return {word.decode().upper() for word in self.library.capabilities()}

    def login(self, user: str, password: str) -> None:
        """LOGIN. Raises AuthRefused."""
        try:
            with self._guard("LOGIN"):
                self.library.login(user, password)
        except _Login as why:
            raise AuthRefused(
                f"{self._where}: the login of {user} was refused: {why}", "`stackctl endpoints --secrets` shows the passwords, `stackctl user passwd` sets one"
            ) from why

    def select(self, mailbox: str = "INBOX", readonly: bool = False) -> dict[str, int]:
        """Opens a mailbox; EXISTS, UIDVALIDITY and (where the server says it) UIDNEXT."""
        with self._guard(f"SELECT {mailbox}"):
            found = self.library.select_folder(mailbox, readonly=readonly)
        return {key.decode(): value for key, value in found.items() if isinstance(value, int)}

    def uids(self, *criteria: str) -> list[int]:
        """The UIDs of the messages that SEARCH finds; of all without criteria."""
        with self._guard("SEARCH"):
            return sorted(self.library.search(list(criteria) or "ALL"))

    def fetch(self, uid: int) -> bytes:
        """The octets of a message, without marking it as seen. Raises StackctlError when it is gone."""
        with self._guard("FETCH"):
            found = self.library.fetch([uid], ["BODY.PEEK[]"])
        if uid not in found:
            raise StackctlError(f"{self._where}: no message has UID {uid}")
        data: bytes = found[uid][b"BODY[]"]
        return data

    def summaries(self, uids: Sequence[int]) -> list[Summary]:
        """Header and size of messages, by UID in ascending order."""
        if not uids:
            return []
        with self._guard("FETCH"):
            found = self.library.fetch(list(uids), ["BODY.PEEK[HEADER]", "RFC822.SIZE"])
        return [summary(found[uid][b"BODY[HEADER]"], uid, found[uid].get(b"RFC822.SIZE", 0)) for uid in sorted(found) if b"BODY[HEADER]" in found[uid]]

    def append(self, message: bytes, mailbox: str = "INBOX", flags: Sequence[str] = ()) -> None:
        """Puts a message into a mailbox."""
        with self._guard("APPEND"):
            self.library.append(mailbox, message, list(flags))

    def delete(self, uids: Sequence[int]) -> None:
        """Removes messages from the open mailbox for good."""
        if uids:
            with self._guard("STORE, EXPUNGE"):
                self.library.delete_messages(list(uids), silent=True)
                self.library.expunge()

    def folders(self) -> list[str]:
        """The names of all mailboxes."""
        with self._guard("LIST"):
            return [name for _, _, name in self.library.list_folders()]

    def create(self, mailbox: str) -> None:
        """Makes a mailbox."""
        with self._guard("CREATE"):
            self.library.create_folder(mailbox)

    def wait(
        self,
        *,
        subject: str | None = None,
        sender: str | None = None,
        matches: Callable[[Summary], bool] = lambda _: True,
        count: int = 1,
        timeout: float = 30,
        prompt_idle: bool = False,
        mailbox: str = "INBOX",
    ) -> list[Summary]:
        """Waits until `count` messages match (a regular expression in the Subject, an address in From, a predicate), old ones included.

        A new message is seen within milliseconds: by IDLE where the server is quick with it (`prompt_idle`), else by a NOOP every 5 ms.
        Raises TimedOut after `timeout` seconds, saying what was there instead.
        """
        pattern = re.compile(subject or "")
        deadline = time.monotonic() + timeout
        self.select(mailbox, readonly=True)
        seen: list[Summary] = []
        found: list[Summary] = []
        while True:
            new = [uid for uid in self.uids(f"UID {seen[-1].uid + 1}:*") if uid > seen[-1].uid] if seen else self.uids()
            for one in self.summaries(new):
                seen.append(one)
                if pattern.search(one.subject) and (sender is None or sender.lower() in one.sender.lower()) and matches(one):
                    found.append(one)
            if len(found) >= count:
                return found
            if not new and not self._grown() and not self._news(deadline, prompt_idle):
                there = ", ".join(repr(one.subject) for one in seen[-3:]) or "nothing"
                raise TimedOut(
                    f"{self._where}: {len(found)} of {count} messages after {timeout:g} s; {mailbox} holds {len(seen)}, the last: {there}",
                    "`stackctl logs mta` shows what became of it",
                )

    def _news(self, deadline: float, prompt_idle: bool) -> bool:
        """Whether something new came before the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            if prompt_idle:
                with self._guard("IDLE"):
                    self.library.idle()
                    self.library.idle_check(min(left, _IDLE_ROUND))
                    self.library.idle_done()
            else:
                time.sleep(min(POLL, left))
                with self._guard("NOOP"):
                    self.library.noop()
            if self._grown():
                return True
        return False

    def _grown(self) -> bool:
        """Whether the server has said EXISTS since the last look. It may say so in the answer to any command, a SEARCH too."""
        return bool(self.library._imap.response("EXISTS")[1] != [None])

    @contextlib.contextmanager
    def _guard(self, stage: str) -> Iterator[None]:
        try:
            yield
        except LoginError as why:
            raise _Login(_text(why)) from why
        except (IMAPClientError, imaplib.IMAP4.error) as why:
            raise StackctlError(f"{self._where}: {stage}: {_text(why)}", "`stackctl logs` shows the server's side") from why
        except (OSError, EOFError) as why:
            raise StackctlError(f"{self._where}: {stage}: {why or type(why).__name__}", "`stackctl status` tells whether the server runs") from why


class _Login(StackctlError):
    pass


def _text(why: BaseException) -> str:
    return re.sub(r"^b['\"](.*)['\"]$", r"\1", str(why))
