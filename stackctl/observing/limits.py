"""How far servers go, found by trying: sizes that grow until one is refused, and what a search may ask. Nothing of it is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Smtp
from stackctl.clients.transcript import Transcript
from stackctl.comparison import Fact
from stackctl.errors import StackctlError
from stackctl.observing.contest import Contest, Contestant, limit, message
from stackctl.scenario import FOREIGN_SENDER

# What SEARCH is asked, each with where it is defined; RFC 9051 (and 3501) where nothing is said. The mailbox has a message.
SEARCHES = """
ALL; ANSWERED; BCC x; BEFORE 1-Jan-2030; BODY x; CC x; DRAFT; FLAGGED; FROM x; HEADER X-None x; KEYWORD x; LARGER 1; NEW; NOT ALL; OLD;
ON 1-Jan-2030; OR ALL NEW; RECENT; SEEN; SENTBEFORE 1-Jan-2030; SENTON 1-Jan-2030; SENTSINCE 1-Jan-2020; SINCE 1-Jan-2020; SMALLER 9999; SUBJECT x;
TEXT x; TO x; UID 1:*; UNDELETED; UNKEYWORD x; UNSEEN; 1:*; (ALL SEEN); CHARSET UTF-8 ALL; CHARSET ISO-8859-1 ALL; RETURN (COUNT) ALL (RFC 4731);
RETURN (SAVE) ALL (RFC 5182); OLDER 60 (RFC 5032); YOUNGER 60 (RFC 5032); MODSEQ 1 (RFC 7162); FUZZY SUBJECT x (RFC 6203);
SAVEDBEFORE 1-Jan-2030 (RFC 8514); EMAILID x (RFC 8474); THREADID x (RFC 8474); RETURN (PARTIAL 1:10) ALL (RFC 9394); FILTER x (RFC 5466); NOSUCHKEY
"""
_WORDS = 1 << 16  # octets of a command, beyond which nobody goes
_PATIENCE = 5.0  # seconds for an answer: one that does not come by then is none
_SAID = 200  # characters of an answer
_HUGE = 1 << 42  # of a message that is only announced
_NAME = 1024  # of a folder or keyword
_KEYWORDS = 200
_SESSIONS = 30  # at once
_LINE = 1 << 17  # octets of a line in a message
_RECIPIENTS = 1100  # RFC 5321 4.5.3.1.8 asks for 100


def of_stores(contest: Contest) -> Iterator[Fact]:
    """The limits of stores, and the searches that they take."""
    for what, tried in (
        ("the longest word of a command, in octets", _largest(_word, _WORDS, 512)),
        ("the longest set of messages of a command, in octets", _largest(_set, _WORDS, 512)),
        ("the largest message that APPEND may announce, in octets", _append),
        ("the longest name of a folder, in octets", _largest(_folder, _NAME, 64)),
        ("the longest keyword, in octets", _largest(_keyword, _NAME, 16)),
        (f"keywords on one message, of {_KEYWORDS}", _keywords),
        (f"sessions of one person at once, of {_SESSIONS}", _sessions),
    ):
        yield contest.each(_with_message(tried), "Limits", what)
    answers = {name: _searches(one) for name, one in contest.contestants.items()}
    for form in map(str.strip, SEARCHES.split(";")):
        yield contest.each(lambda one, form=form: answers[one.name][form], "Searches", f"SEARCH {form}")  # type: ignore[misc]


def _with_message(tried: Callable[[Contestant], tuple[str, str]]) -> Callable[[Contestant], tuple[str, str]]:
    def there(one: Contestant) -> tuple[str, str]:
        with _session(one) as session:
            if not session.select()["EXISTS"]:
                session.library.append("INBOX", message(one.address("limits"), "limits"))
        return tried(one)

    return there


def _session(one: Contestant) -> Imap:
    session = Imap(one.where("imaps"), _PATIENCE, Transcript(whole=True))
    session.login(one.address("limits"), one.password)
    session.select()
    return session


class _Trying:
    """A session in which things are tried one after another; after what was refused the next is tried in another one. A context manager."""

    def __init__(self, one: Contestant) -> None:
        self._one, self._session = one, _session(one)

    def __enter__(self) -> _Trying:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def __call__(self, work: Callable[[Imap], object]) -> str:
        """What the server says against some work, "" where it does it."""
        try:
            with self._session.transcript.muted():
                work(self._session)
        except StackctlError as why:
            self._session.library.shutdown()
            self._session = _session(self._one)
            return why.message[:_SAID]
        return ""


def _largest(work: Callable[[Imap, int], object], ceiling: int, least: int) -> Callable[[Contestant], tuple[str, str]]:
    """The largest size with which a store does some work."""

    def found(one: Contestant) -> tuple[str, str]:
        with _Trying(one) as tried:
            return limit(lambda size: tried(lambda session: work(session, size)), ceiling, least)

    return found


def _word(session: Imap, size: int) -> None:
    session.ask("UID", "FETCH", "1", f"(BODY.PEEK[HEADER.FIELDS ({'x' * size})])")


def _set(session: Imap, size: int) -> None:
    session.ask("UID", "FETCH", ",".join(["1"] * ((size + 1) // 2)), "(FLAGS)")


def _append(one: Contestant) -> tuple[str, str]:
    def announced(size: int) -> str:
        session = _session(one)
        try:
            return session.would_take(size)
        except StackctlError as why:
            return why.message[:_SAID]
        finally:
            session.library.shutdown()

    return limit(announced, _HUGE, 1 << 20)


def _folder(session: Imap, size: int) -> None:
    session.create(session.prefix + "x" * size)  # it stays: to delete it can take seconds


def _keyword(session: Imap, size: int) -> None:
    word = f"k{size}".ljust(size, "x")
    session.ask("STORE", "1", "FLAGS", f"({word})")
    found = session.ask("FETCH", "1", "(FLAGS)").get("FETCH", [])
    if word.encode() not in b"".join(part for part in found if isinstance(part, bytes)):
        raise StackctlError("it is not there afterwards")


def _keywords(one: Contestant) -> tuple[str, str]:
    """Set one by one, and counted by another session."""
    said = "every one was taken"
    with _session(one) as session:
        for number in range(_KEYWORDS):
            try:
                session.ask("STORE", "1", "+FLAGS", f"(limit{number})")
            except StackctlError as why:
                said = f"number {number + 1}: {why.message}"
                break
    with _session(one) as session:
        found = b"".join(part for part in session.ask("FETCH", "1", "(FLAGS)").get("FETCH", []) if isinstance(part, bytes))
        kept = sum(f"limit{number}".encode() in found.replace(b")", b" ").split() for number in range(_KEYWORDS))
        session.ask("STORE", "1", "FLAGS", "()")
    return f"{kept} are kept", f"{said}; another session sees {kept}: {found.decode('utf-8', 'replace')[:400]}"


def _sessions(one: Contestant) -> tuple[str, str]:
    with ExitStack() as opened:
        for number in range(_SESSIONS):
            try:
                opened.enter_context(_session(one))
            except StackctlError as why:
                return f"{number}", why.message
    return f"at least {_SESSIONS}", "every one was let in"


def _searches(one: Contestant) -> dict[str, tuple[str, str]]:
    """Each form: whether it is taken, and what was said."""
    found = {}
    with _Trying(one) as tried:
        for form in map(str.strip, SEARCHES.split(";")):
            words = form.partition(" (RFC")[0].split(" ")
            said = tried(lambda session, words=words: session.ask("UID", "SEARCH", *words))  # type: ignore[misc]
            found[form] = ("no", said) if said else ("yes", f"{' '.join(words)}: OK")
    return found


# --- MTAs


def of_mtas(contest: Contest) -> Iterator[Fact]:
    """The limits of MTAs on port 25, of a message for somebody whom there is."""
    for what, tried in (
        ("the longest command, in octets", _command),
        ("the longest line of a message, in octets", _line),
        ("the longest header field, folded, in octets", _header),
        (f"recipients of one message, of {_RECIPIENTS}", _recipients),
        ("the largest message that MAIL may announce, in octets", _announced),
        (f"connections of one client at once, of {_SESSIONS}", _connections),
    ):
        yield contest.each(tried, "Limits", what)


def _said(one: Contestant, work: Callable[[Smtp], str]) -> str:
    try:
        with Smtp(one.where("smtp")) as session, session.transcript.muted():
            return work(session)
    except StackctlError as why:
        return why.message[:_SAID]


def _refusal(reply: tuple[int, str], good: int = 250) -> str:
    code, text = reply
    return "" if code == good else f"{code} {text}"[:_SAID]


def _command(one: Contestant) -> tuple[str, str]:
    return limit(lambda size: _said(one, lambda session: _refusal(session.command("NOOP ".ljust(size - 2, "x")))), _WORDS, 128)


def _sent(one: Contestant, octets: bytes) -> str:
    def send(session: Smtp) -> str:
        session.send(FOREIGN_SENDER, [one.address("limits")], octets)
        return ""

    return _said(one, send)


def _line(one: Contestant) -> tuple[str, str]:
    return limit(lambda size: _sent(one, message(one.address("limits"), "line") + b"y" * (size - 2) + b"\r\n"), _LINE, 998)


def _header(one: Contestant) -> tuple[str, str]:
    def long(size: int) -> bytes:
        return b"X-Long: a\r\n" + b" ".join([b"", *([b"z" * 70 + b"\r\n"] * (size // 73))]) + message(one.address("limits"), "header")

    return limit(lambda size: _sent(one, long(size)), _LINE * 4, 1024)


def _recipients(one: Contestant) -> tuple[str, str]:
    taken = 0

    def named(session: Smtp) -> str:
        nonlocal taken
        session.command(f"MAIL FROM:<{FOREIGN_SENDER}>")
        for number in range(_RECIPIENTS):
            if refused := _refusal(session.command(f"RCPT TO:<{one.address(f'r{number}')}>")):
                return refused
            taken = number + 1
        session.command("RSET")
        return ""

    refused = _said(one, named)
    return (f"{taken:,}", refused) if refused else (f"at least {taken:,}", "every one was taken")


def _announced(one: Contestant) -> tuple[str, str]:
    def announced(size: int) -> str:
        return _said(one, lambda session: _refusal(session.command(f"MAIL FROM:<{FOREIGN_SENDER}> SIZE={size}")))

    return limit(announced, _HUGE, 1 << 20)


def _connections(one: Contestant) -> tuple[str, str]:
    with ExitStack() as opened:
        for number in range(_SESSIONS):
            try:
                opened.enter_context(Smtp(one.where("smtp")))
            except StackctlError as why:
                return f"{number}", why.message
    return f"at least {_SESSIONS}", "every one was let in"
