"""An IMAP client (RFC 3501) for tests: exact octets out, and a wait that sees a message within milliseconds of its delivery."""

from __future__ import annotations

import contextlib
import imaplib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import format_datetime
from typing import Any

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from stackctl.clients.failure import STRIPPED, WRONG_PASSWORD, AuthRefused, TlsFailed, closing, explain, said
from stackctl.clients.message import Summary, summary
from stackctl.clients.transcript import Context, Transcript, connect
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut, UsageError

POLL = 0.005  # seconds between two NOOPs: a delivery is seen at most that late, and a server answers one in under 1 ms
_IDLE_ROUND = 2.0  # seconds; after each the server is asked anew, should its notice have been lost
_MOST_UIDS = 500  # in one command: some servers refuse a word of 8 KiB
_ATOM = re.compile(r"[A-Za-z0-9@._+=/-]+")  # what LOGIN takes as a user without quotes, on every server

logging.getLogger("imapclient").addHandler(logging.NullHandler())  # its warnings are about names in answers, and would go to standard error
imaplib._MAXLINE = 20_000_000  # type: ignore[attr-defined]  # a SEARCH over a large mailbox is one line


class _Library(imaplib.IMAP4):
    """imaplib on a recorded socket."""

    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript = where, transcript
        with closing(self):
            super().__init__(where.host, where.port, timeout)
            if where.tls == "starttls":
                self._secure()

    def _secure(self) -> None:
        if "STARTTLS" not in self.capabilities:
            raise TlsFailed(f"{self._where}: the server does not offer STARTTLS", STRIPPED)
        context: Any = Context(self._where, self._transcript)
        self.starttls(ssl_context=context)

    def _create_socket(self, timeout: float | None) -> Any:
        sock = connect(self._where, self._transcript, timeout or 60)
        return Context(self._where, self._transcript).wrap_socket(sock) if self._where.tls == "implicit" else sock


class _Client(IMAPClient):  # type: ignore[misc]
    def __init__(self, where: Where, transcript: Transcript, timeout: float) -> None:
        self._where, self._transcript, self._seconds = where, transcript, timeout
        super().__init__(where.host, where.port, ssl=False, timeout=timeout)
        self.normalise_times = False  # a date keeps its own time zone

    def _create_IMAP4(self) -> Any:
        return _Library(self._where, self._transcript, self._seconds)


class Imap:
    """A session that has greeted, and is inside TLS where the listener has it. A context manager; leaving it logs out.

    Every method raises StackctlError (TlsFailed, AuthRefused, TimedOut are kinds of it) and nothing of the libraries below.
    """

    def __init__(self, where: Where, timeout: float = 60, transcript: Transcript | None = None) -> None:
        self.transcript = transcript or Transcript()
        self._where = where
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
        """LOGIN, or AUTHENTICATE PLAIN for what LOGIN cannot carry (RFC 9051 6.2.3: no octet beyond ASCII). Raises AuthRefused."""
        self.transcript.hide(password)
        if any(ord(character) < 32 or ord(character) == 127 for character in user + password):
            raise UsageError("a user name or password holds a control character", "IMAP says each in one line")
        simple = _ATOM.fullmatch(user) and password.isascii()
        try:
            with self._guard("LOGIN" if simple else "AUTHENTICATE PLAIN"):
                (self.library.login if simple else self.library.plain_login)(user, password)
        except _Login as why:
            raise AuthRefused(f"{self._where}: the login of {user} was refused: {why}", WRONG_PASSWORD) from why

    def select(self, mailbox: str = "INBOX", readonly: bool = False) -> dict[str, int]:
        """Opens a mailbox; EXISTS, UIDVALIDITY and (where the server says it) UIDNEXT."""
        with self._guard(f"SELECT {mailbox}"):
            try:
                found = self.library.select_folder(mailbox, readonly=readonly)
            except IMAPClientError as why:
                if "[ALREADYEXISTS]" not in str(why):  # no answer to SELECT, but a server gives it while a first delivery makes the mailbox
                    raise
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
        """What a list shows of messages, by UID in ascending order."""
        if not uids:
            return []
        with self._guard("FETCH"):
            # ENVELOPE and no header: it is one write of the server's. A literal is two, and the second may wait 40 ms
            # for the acknowledgement of the first (Nagle's algorithm, RFC 1122 4.2.3.4, and delayed acknowledgements).
            found = self.library.fetch(list(uids), ["ENVELOPE", "RFC822.SIZE"])
        return [summary(_header(found[uid][b"ENVELOPE"]), uid, found[uid].get(b"RFC822.SIZE", 0)) for uid in sorted(found) if b"ENVELOPE" in found[uid]]

    def _above(self, uid: int) -> list[int]:
        """The UIDs above this one."""
        with self._guard("SEARCH"):
            found = self.library.search(f"UID {uid + 1}:*")
        # "n:*" names the last message also when its UID is below n (RFC 9051 9, seq-range).
        return sorted(one for one in found if one > uid)

    def append(self, message: bytes, mailbox: str = "INBOX", flags: Sequence[str] = ()) -> None:
        """Puts a message into a mailbox."""
        with self._guard("APPEND"):
            self.library.append(mailbox, message, list(flags))

    def delete(self, uids: Sequence[int]) -> None:
        """Removes messages from the open mailbox for good."""
        if uids:
            with self._guard("STORE, EXPUNGE"):
                self.library.delete_messages(list(uids), silent=True)
                if self.library.has_capability("UIDPLUS"):  # RFC 4315: these, and none that somebody else marked
                    self.library.uid_expunge(list(uids))
                else:
                    self.library.expunge()

    @property
    def prefix(self) -> str:
        """What the names of one's own folders start with (RFC 2342), "" where the server does not say."""
        if "NAMESPACE" not in self.capabilities:
            return ""
        with self._guard("NAMESPACE"):
            personal = self.library.namespace().personal
        return str(personal[0][0]) if personal else ""

    def folders(self) -> list[str]:
        """The names of all mailboxes."""
        with self._guard("LIST"):
            return [name for _, _, name in self.library.list_folders()]

    def listed(self, subscribed: bool = False) -> list[tuple[frozenset[str], str, str]]:
        """What LIST says, or LSUB: attributes in lower case, the delimiter, and the name; without what is no mailbox but is above one."""
        with self._guard("LSUB" if subscribed else "LIST"):
            rows = self.library.list_sub_folders() if subscribed else self.library.list_folders()
        found = [(frozenset(word.decode().lower() for word in words), between.decode() if between else "", name) for words, between, name in rows]
        return [row for row in found if not row[0] & {"\\noselect", "\\nonexistent"}]

    def following(self, mailbox: str) -> int:
        """The UID that the next message will have: UIDNEXT of STATUS."""
        with self._guard("STATUS"):
            return int(self.library.folder_status(mailbox, ["UIDNEXT"])[b"UIDNEXT"])

    def items(self, uids: Sequence[int], *names: str) -> dict[int, dict[bytes, Any]]:
        """Items of messages as FETCH has them (RFC 9051 6.4.5), by UID; none of it gets into the transcript."""
        found: dict[int, dict[bytes, Any]] = {}
        with self._guard("FETCH"), self.transcript.muted():
            for start in range(0, len(uids), _MOST_UIDS):
                found |= self.library.fetch(list(uids[start : start + _MOST_UIDS]), list(names))
        return found

    def create(self, mailbox: str) -> None:
        """Makes a mailbox."""
        with self._guard("CREATE"):
            self.library.create_folder(mailbox)

    def ask(self, command: str, *arguments: str | bytes) -> dict[str, list[Any]]:
        """Says a command as it is written, for what the library has no method; what was answered, by the name of the response or of its code.

        Raises StackctlError where the server refuses it.
        """
        plain = self.library._imap
        plain.untagged_responses = {}
        with self._guard(command):
            self.library._checkok(command, *plain._simple_command(command, *arguments))
        answers: dict[str, list[Any]] = plain.untagged_responses
        return answers

    def rights(self, mailbox: str) -> dict[str, str]:
        """Who has which rights on a mailbox (RFC 4314); nobody where one may not ask."""
        try:
            with self._guard("GETACL"):
                rows = self.library.getacl(mailbox)  # which leaves quotes as they are
                return {who.decode("utf-8", "replace").strip('"'): letters.decode().strip('"') for who, letters in rows}
        except StackctlError:
            return {}

    def would_take(self, octets: int) -> str:
        """"" where the server asks for the message when APPEND announces so many octets (RFC 9051 6.3.12), else its answer. The session is of no more use."""
        plain = self.library._imap
        with self._guard("APPEND"):
            plain.send(b"append1 APPEND INBOX {%d}\r\n" % octets)
            while line := plain.readline():
                if not line.startswith(b"* "):
                    return "" if line.startswith(b"+") else line.decode("utf-8", "replace").strip()
        return "the connection was closed"

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
        # Not read-only: there a server may give UIDs that it forgets, and the next session's are others.
        more = self.select(mailbox)["EXISTS"] > 0
        seen: list[Summary] = []
        found: list[Summary] = []
        while True:
            last = seen[-1].uid if seen else 0
            new = self.summaries(self._above(last)) if more else []
            seen += new
            found += [one for one in new if pattern.search(one.subject) and (sender is None or sender.lower() in one.sender.lower()) and matches(one)]
            if len(found) >= count:
                return found
            more = self._grown() or self._news(deadline, prompt_idle)
            if not more:
                there = ", ".join(repr(one.subject) for one in seen[-3:]) or "nothing"
                raise TimedOut(
                    f"{self._where}: {len(found)} of {count} messages after {timeout:g} s; {mailbox} holds {len(seen)}, the last: {there}",
                    "`stackctl logs mta` shows what became of it",
                )

    def _news(self, deadline: float, prompt_idle: bool) -> bool:
        """Whether something new came before the deadline."""
        start, rounds, grown = time.monotonic(), 0, False
        with self.transcript.muted():
            while not grown and (left := deadline - time.monotonic()) > 0:
                rounds += 1
                if prompt_idle:
                    with self._guard("IDLE"):
                        grown = self._idle(min(left, _IDLE_ROUND))
                else:
                    time.sleep(min(POLL, left))
                    with self._guard("NOOP"):
                        self.library.noop()
                grown = self._grown() or grown
        what = "IDLE" if prompt_idle else f"NOOP every {POLL * 1000:g} ms"
        self.transcript.note(f"{what}, {rounds} times in {time.monotonic() - start:.3f} s: {'something new' if grown else 'nothing new'}")
        return grown

    def _idle(self, seconds: float) -> bool:
        """One IDLE (RFC 2177) of at most so many seconds; whether the server said EXISTS meanwhile."""
        try:
            self.library.idle()
        except IMAPClientError as why:
            if "Unexpected IDLE response" not in str(why):
                raise
            while self.library._imap._get_response() is not None:  # the server had something to say before its "+"
                pass
        here = [] if self._read_ahead() else self.library.idle_check(seconds)
        self.library.idle_done()
        return any(len(row) > 1 and row[1] == b"EXISTS" for row in here)

    def _read_ahead(self) -> bool:
        """Whether more than the last line was read from the socket, which a poll of the socket would not tell."""
        sock = self.library.socket()
        timeout = sock.gettimeout()
        sock.setblocking(False)
        try:
            return bool(self.library._imap.file.peek(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            sock.settimeout(timeout)

    def _grown(self) -> bool:
        """Whether the server has said EXISTS since the last look. It may say so in the answer to any command, a SEARCH too."""
        return bool(self.library._imap.response("EXISTS")[1] != [None])

    @contextlib.contextmanager
    def _guard(self, stage: str) -> Iterator[None]:
        try:
            yield
        except LoginError as why:
            # IMAPClient makes a LoginError of a lost connection too.
            if isinstance(why.__context__, imaplib.IMAP4.abort):
                raise explain(self._where, stage, why) from why
            raise _Login(said(why)) from why
        except (IMAPClientError, imaplib.IMAP4.error, OSError, EOFError) as why:
            raise explain(self._where, stage, why) from why


def _header(envelope: Any) -> bytes:
    """The header fields that an ENVELOPE (RFC 9051 7.5.2) was made of, as far as a summary needs them."""
    senders = []
    for one in envelope.from_ or ():
        address = b"@".join(part for part in (one.mailbox, one.host) if part)
        name = (one.name or b"").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        quoted = name if name.startswith(b"=?") else b'"%s"' % name  # encoded words (RFC 2047 5) stand outside quotes
        senders.append(b"%s <%s>" % (quoted, address) if name else address)
    date = format_datetime(envelope.date).encode() if envelope.date else b""
    fields = {b"From": b", ".join(senders), b"Subject": envelope.subject or b"", b"Date": date, b"Message-ID": envelope.message_id or b""}
    return b"".join(b"%s: %s\r\n" % (name, re.sub(rb"[\r\n]+", b" ", value)) for name, value in fields.items()) + b"\r\n"


class _Login(StackctlError):
    pass
