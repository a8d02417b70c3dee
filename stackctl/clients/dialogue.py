"""Who says what in SMTP, IMAP and POP3: lines, bodies, secrets, and whose turn it is. Pure; it opens no connection.

Octets of both sides go in; lines fit to be shown come out. Secrets are masked by where they stand (RFC 4954, RFC 9051 6.2,
RFC 1939, RFC 5034), so no password needs to be known here; what is no command of the protocol is masked too, since it may be
a password typed in the wrong place. Passwords that are known (`secrets`) are masked wherever they turn up.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import deque
from collections.abc import Callable
from urllib.parse import quote

MASK = "***"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{4,}={0,2}")
_MECHANISM = re.compile(
    r"PLAIN|LOGIN|EXTERNAL|ANONYMOUS|CRAM-\w+|DIGEST-MD5|SCRAM-[\w-]+|NTLM|GSSAPI|GSS-SPNEGO|GS2-[\w-]+|OTP|SKEY|RPA|XOAUTH2|OAUTHBEARER", re.IGNORECASE
)
_CLIENT_LITERAL = re.compile(r"\{(\d+)(\+?)\}$")  # RFC 9051 4.3, RFC 7888
_SERVER_LITERAL = re.compile(r"~?\{(\d+)\}$")

_SMTP = frozenset(re.findall(r"\w+", "EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY EXPN HELP STARTTLS ETRN XCLIENT XFORWARD"))
_POP3 = frozenset(re.findall(r"\w+", "USER STAT LIST RETR DELE NOOP RSET QUIT TOP UIDL CAPA STLS UTF8 LANG"))
_IMAP = frozenset(
    re.findall(
        r"\w+",
        "CAPABILITY NOOP LOGOUT STARTTLS ENABLE SELECT EXAMINE CREATE DELETE RENAME SUBSCRIBE UNSUBSCRIBE LIST LSUB NAMESPACE STATUS APPEND IDLE "
        "CHECK CLOSE UNSELECT EXPUNGE SEARCH FETCH STORE COPY MOVE UID ID SORT THREAD GETQUOTA GETQUOTAROOT SETQUOTA GETACL SETACL DELETEACL "
        "MYRIGHTS LISTRIGHTS COMPRESS NOTIFY ESEARCH GETMETADATA SETMETADATA CANCELUPDATE",
    )
)


class Dialogue:
    """One connection. `emit` gets each line: "C" or "S", and its text without secrets.

    `body_lines`: how many lines of a message are shown, `width`: how many characters of a line; the rest is counted. None shows all.
    The protocol is known from the server's greeting. `upgrade` becomes true when the server agreed to go into TLS; whoever does so resets it.
    `over` becomes true when the server answered QUIT or LOGOUT.
    """

    def __init__(self, emit: Callable[[str, str], None], body_lines: int | None = 12, width: int | None = 300) -> None:
        self.protocol = ""
        self.upgrade = False
        self.over = False
        self.secrets: list[str] = []
        self._emit = emit
        self._limit, self._width = body_lines, width
        self._sides = {"C": _Side(), "S": _Side()}
        self._owed: deque[tuple[str, str]] = deque()  # (tag, verb) of each command that has no final answer yet
        self._sasl = False  # from AUTH to the answer to it, the client's lines are secrets
        self._challenge = False  # the server waits for one of them
        self._failed_login = False  # until the next good command, what the client says may be the rest of a login
        self._command: tuple[str, str] | None = None  # IMAP: the command that is still being sent, over its literals
        self._go_ahead = True  # IMAP: whether the server said "+" to the client's literal
        self._idle = False

    @property
    def turn(self) -> str:
        """Who speaks next: "S" while the server owes a greeting, an answer or the rest of one, else "C"."""
        server = self._sides["S"]
        if not self.protocol or server.buffer or server.literal is not None or server.dots:
            return "S"
        if self._challenge or self._idle or self._sides["C"].dots:
            return "C"
        if self._command is not None:
            return "C" if self._go_ahead else "S"
        return "S" if self._owed else "C"

    @property
    def in_literal(self) -> bool:
        """Whether the client's next octets belong to a literal."""
        return self._sides["C"].literal is not None

    def feed(self, side: str, data: bytes) -> None:
        """Takes octets of the client ("C") or the server ("S") as they passed."""
        here = self._sides[side]
        here.buffer += data
        while self._step(side, here):
            pass

    def unfinished(self, side: str) -> int:
        """How many octets of a line came without its end."""
        return len(self._sides[side].buffer)

    def masked(self, text: str) -> str:
        """A text without the known secrets, in whatever encoding they are."""
        for secret in self.secrets:
            escaped = secret.replace("\\", "\\\\").replace('"', '\\"')  # RFC 9051 quoted string
            forms = {secret, escaped, quote(secret), quote(secret, safe=""), secret.encode().hex(), secret.encode().hex().upper()}
            for form in sorted(forms, key=len, reverse=True):
                text = text.replace(form, MASK)
            for token in set(_BASE64.findall(text)):
                if _hides(token, secret.encode()):
                    text = text.replace(token, MASK)
        return text

    def _show(self, side: str, text: str) -> None:
        text = self.masked(text) if self.secrets else text
        text = _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        over = len(text) - self._width if self._width is not None else 0
        self._emit(side, text if over <= 0 else f"{text[: self._width]}… {over} characters more")

    # --- From octets to lines and bodies

    def _step(self, side: str, here: _Side) -> bool:
        """Takes one piece from a side's octets; False when there is no whole one."""
        if here.literal is not None:
            return self._literal(side, here)
        if here.dots:
            return self._dots(side, here)
        line = here.line()
        if line is None:
            return False
        if side == "S":
            self._server(line)
        else:
            self._client(line)
        return True

    def _literal(self, side: str, here: _Side) -> bool:
        """Octets of known number: an IMAP literal, a BDAT chunk."""
        assert here.literal is not None
        if here.literal and not here.buffer:
            return False
        while here.literal and self._shows_more(here) and not here.secret:
            part = bytes(here.buffer[: here.literal])
            end = part.find(b"\n") + 1
            if not end and len(part) < here.literal:
                if len(part) < 8192:
                    return False
                end = len(part)
            end = end or here.literal
            self._show(side, _text(part[:end].rstrip(b"\r\n")))
            here.shown += 1
            here.take(end)
        skipped = here.take(here.literal)
        here.hidden += skipped
        if here.literal:
            return False
        self._body_ends(side, here)
        here.literal = None
        return True

    def _dots(self, side: str, here: _Side) -> bool:
        """A body that ends in a line with nothing but a dot (RFC 5321 4.5.2, RFC 1939 3)."""
        if here.line_start and b".\r\n".startswith(here.buffer[:3]):
            if len(here.buffer) < 3:
                return False
            here.take(3)
            self._body_ends(side, here)
            here.dots = False
            self._show(side, ".")
            if side == "C":
                self._owed.append(("", "."))
            return True
        if self._shows_more(here):
            here.line_start = b"\r\n" in here.buffer[: here.buffer.find(b"\n") + 1]  # a bare LF ends no line (RFC 5321 2.3.8)
            line = here.line()
            if line is None:
                return False
            self._show(side, line)
            here.shown += 1
            return True
        end = here.buffer.find(b"\r\n.\r\n")
        if end >= 0:
            here.hidden += here.take(end + 2)
            here.line_start = True
            return True
        if len(here.buffer) > 4:  # the end may have begun
            here.hidden += here.take(len(here.buffer) - 4)
            here.line_start = False
        return False

    def _shows_more(self, here: _Side) -> bool:
        return self._limit is None or here.shown < self._limit

    def _body_ends(self, side: str, here: _Side) -> None:
        if here.secret:
            self._show(side, MASK)
        elif here.hidden:
            self._show(side, f"… {here.hidden} octets")
        here.shown = here.hidden = 0
        here.secret = False

    # --- The client's lines

    def _client(self, line: str) -> None:
        if self._sasl:
            self._challenge = False
            self._show("C", line if line.strip() == "*" else MASK)
        elif self.protocol == "imap":
            self._client_imap(line)
        else:
            self._client_words(line)

    def _client_words(self, line: str) -> None:
        """SMTP and POP3: a verb and its arguments. Before a greeting it may be either."""
        words = line.split()
        verb = words[0].upper() if words else ""
        shown = line
        if verb == "AUTH":
            self._sasl = len(words) > 1  # POP3's AUTH alone asks for the mechanisms
            shown = _sasl_command(words, 1)
        elif verb in ("PASS", "APOP"):
            # A password may hold spaces, and begin with one.
            shown = " ".join([*words[: 1 if verb == "PASS" else 2], MASK])
        elif verb in (_POP3 if self.protocol == "pop3" else _SMTP):
            self._failed_login = False
        elif words:
            shown = self._no_command(line)
        self._show("C", shown)
        if verb == "BDAT" and len(words) > 1 and words[1].isdigit():
            self._sides["C"].literal = int(words[1])
        several = verb in ("RETR", "TOP", "CAPA") or (verb in ("LIST", "UIDL", "AUTH") and len(words) == 1)
        self._owed.append(("several" if several else "", verb))

    def _no_command(self, line: str) -> str:
        """What is shown of a line that no server understands: its first word where it has more, and is not the rest of a login."""
        first, more, _ = line.lstrip().partition(" ")
        return f"{first} {MASK}" if more and not self._failed_login else MASK

    def _client_imap(self, line: str) -> None:
        if self._idle and line.strip().upper() == "DONE":
            self._idle = False
            self._show("C", line)
            return
        secret = False
        if self._command is None:
            words = line.split()
            tag, verb = (words[0] if words else ""), (words[1].upper() if len(words) > 1 else "")
            self._command = tag, verb
            shown = line
            if verb == "LOGIN":
                user = re.match(r'\s*\S+\s+LOGIN\s+("(?:[^"\\]|\\.)*"|[^\s"{]+)\s', line, re.IGNORECASE)
                shown, secret = " ".join([*words[:2], *([user[1]] if user else []), MASK]), True
            elif verb == "AUTHENTICATE":
                shown, secret = _sasl_command(words, 2), True
            elif verb in _IMAP:
                self._failed_login = False
            elif words:
                shown = self._no_command(line)
                secret = True
            self._show("C", shown)
        else:
            secret = self._command[1] not in _IMAP
            if line:
                self._show("C", MASK if secret else line)
        if found := _CLIENT_LITERAL.search(line):
            self._sides["C"].literal, self._sides["C"].secret = int(found[1]), secret
            self._go_ahead = bool(found[2])
            return
        self._owed.append(self._command)
        self._sasl = self._command[1] == "AUTHENTICATE"
        self._command = None

    # --- The server's lines

    def _server(self, line: str) -> None:
        self._show("S", line)
        if not self.protocol:
            self._greeting(line)
        elif self.protocol == "smtp":
            if line[3:4] != "-":
                self._reply(line[:3])
        elif self.protocol == "pop3":
            self._status(line)
        else:
            self._response(line)

    def _greeting(self, line: str) -> None:
        if line.startswith("* "):
            self.protocol = "imap"
        elif line.startswith(("+OK", "-ERR")):
            self.protocol = "pop3"
        elif line[3:4] != "-":
            self.protocol = "smtp"

    def _reply(self, code: str) -> None:
        verb = self._owed[0][1] if self._owed else ""
        if verb == "AUTH" and code == "334":
            self._challenge = True
            return
        self._answered(code[:1] == "2")
        if verb == "DATA" and code == "354":
            self._sides["C"].begin_dots()

    def _status(self, line: str) -> None:
        several, verb = self._owed[0] if self._owed else ("", "")
        if verb == "AUTH" and re.match(r"\+( |$)", line):
            self._challenge = True
            return
        good = line.startswith("+OK")
        self._answered(good)
        if good and several:
            self._sides["S"].begin_dots()

    def _response(self, line: str) -> None:
        tag = line.split(" ", 1)[0]
        status = re.match(r"\S+ (OK|NO|BAD|BYE|PREAUTH)\b", line, re.IGNORECASE)
        if tag == "+":
            self._go_ahead = True
            self._challenge = self._sasl
            self._idle = bool(self._owed) and self._owed[-1][1] == "IDLE"
        elif tag == "*":
            if not status and (found := _SERVER_LITERAL.search(line)):
                self._sides["S"].literal = int(found[1])
            elif status and status[1].upper() == "BAD" and self._owed and self._owed[0][1] not in _IMAP | {"LOGIN", "AUTHENTICATE"}:
                self._answered(False)  # a line that was no command has no tag to answer to
        elif not status and (found := _SERVER_LITERAL.search(line)):
            self._sides["S"].literal = int(found[1])  # an untagged response goes on after a literal
        elif status:
            if self._command is not None and self._command[0] == tag:  # the literal was refused
                self._failed_login = self._command[1] == "LOGIN"
                self._command = None
                self._sides["C"].literal = None
            for pending in [pending for pending in self._owed if pending[0] == tag]:
                self._owed.remove(pending)
                self._owed.appendleft(pending)
                self._answered(status[1].upper() == "OK")

    def _answered(self, good: bool) -> None:
        """The oldest command has its final answer."""
        if not self._owed:
            return
        _, verb = self._owed.popleft()
        if verb in ("AUTH", "AUTHENTICATE"):
            self._sasl = self._challenge = False
        if verb in ("AUTH", "AUTHENTICATE", "LOGIN", "PASS", "APOP", "USER"):
            self._failed_login = not good
        if verb in ("STARTTLS", "STLS") and good:
            self.upgrade = True
        if verb == "IDLE":
            self._idle = False
        self.over = verb in ("QUIT", "LOGOUT")


class _Side:
    """The octets of one side that are not shown yet, and what they belong to."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.literal: int | None = None  # octets of it still to come
        self.secret = False
        self.dots = False
        self.line_start = True
        self.shown = 0  # lines of the body that were shown
        self.hidden = 0  # octets of it that were not

    def begin_dots(self) -> None:
        self.dots = self.line_start = True

    def line(self) -> str | None:
        end = self.buffer.find(b"\n")
        if end < 0:
            return None
        found = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return _text(found.removesuffix(b"\r"))

    def take(self, count: int) -> int:
        count = min(count, len(self.buffer))
        del self.buffer[:count]
        if self.literal is not None:
            self.literal -= count
        return count


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")


def _sasl_command(words: list[str], place: int) -> str:
    """AUTH or AUTHENTICATE with the mechanism at `place`, and without its initial response."""
    mechanism = [word if _MECHANISM.fullmatch(word) else MASK for word in words[place : place + 1]]
    return " ".join([*words[:place], *mechanism, *([MASK] if len(words) > place + 1 else [])])


def _hides(token: str, secret: bytes) -> bool:
    """Whether a base64 text holds the secret, from whichever of its first characters on."""
    token = token.replace("-", "+").replace("_", "/").rstrip("=")
    for start in range(4):
        part = token[start : len(token) - (len(token) - start) % 4] if (len(token) - start) % 4 == 1 else token[start:]
        try:
            if secret in base64.b64decode(part + "=" * (-len(part) % 4)):
                return True
        except binascii.Error:
            continue
    return False
