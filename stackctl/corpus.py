"""Messages as people really send them, as exact octets with CRLF line ends. Deterministic: no clock, no chance, nothing is sent.

Each one is a case that some mail system has damaged: dots, long lines, raw 8-bit octets, signatures.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache

DATE = "Tue, 02 Jan 2024 03:04:05 +0000"
LINE = 998  # octets of the longest line without its CRLF (RFC 5322 2.1.1)
LARGE = 10 * 1024**2  # octets of the large message, about


@dataclass(frozen=True)
class Sample:
    """A message. `smtputf8`: its header is raw UTF-8 (RFC 6532); `eightbit`: its body holds octets above 127."""

    name: str
    octets: bytes
    smtputf8: bool = False
    eightbit: bool = False

    @property
    def message_id(self) -> str:
        """The Message-ID with its angle brackets; no other sample of the same tag has it."""
        return self.octets.partition(b"Message-ID: ")[2].partition(b"\r\n")[0].decode()


def messages(sender: str, recipient: str, tag: str = "corpus") -> dict[str, Sample]:
    """Every sample by its name, from `sender` to `recipient`; `tag` gets into Subject and Message-ID and keeps two sets apart."""
    found = [
        *_texts(sender, recipient, tag),
        *_headers(sender, recipient, tag),
        *_multiparts(sender, recipient, tag),
        Sample("ten_megabytes", message("ten_megabytes", sender, recipient, tag, _TYPE_TEXT, _large())),
    ]
    return {sample.name: sample for sample in found}


_TYPE_TEXT = "Content-Type: text/plain; charset=us-ascii"
_TYPE_UTF8 = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit"
_TYPE_LATIN1 = "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit"


def message(name: str, sender: str, recipient: str, tag: str, kind: str = _TYPE_TEXT, body: bytes = b"", extra: str = "", subject: str = "") -> bytes:
    """One message; `extra` are header lines with their CRLF, `kind` its Content-Type and what belongs to it."""
    header = (
        f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject or f'{name} {tag}'}\r\nDate: {DATE}\r\n"
        f"Message-ID: <{name}.{tag}@{sender.rpartition('@')[2]}>\r\nMIME-Version: 1.0\r\n{extra}{kind}\r\n\r\n"
    )
    return header.encode() + body


def _crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def _texts(sender: str, recipient: str, tag: str) -> list[Sample]:
    def text(name: str, body: bytes, kind: str = _TYPE_TEXT) -> Sample:
        return Sample(name, message(name, sender, recipient, tag, kind, body), eightbit=any(octet > 127 for octet in body))

    # Every octet but NUL, CR and LF, which RFC 5322 3.5 does not let stand alone in a message.
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    return [
        text("plain", _crlf("Hello,\n\nthis is a plain text.\n\n-- \nA signature with its blank\n")),
        text("eight_bit", _crlf("Grüße aus Köln, bises de Besançon, привет, 你好, 🐟\n"), _TYPE_UTF8),
        text("every_latin1_octet", b"".join(octets[at : at + 32] + b"\r\n" for at in range(0, len(octets), 32)), _TYPE_LATIN1),
        text("dots", _crlf(".\n..\n...\n.a line that starts with a dot\n..two\nnot . here\n . nor here\n\n.\n")),
        text("lines_of_998_octets", b"x" * LINE + b"\r\n" + b"." * LINE + b"\r\n" + b"word " * 199 + b"end\r\n"),
        text("lines_of_998_octets_in_utf8", ("ü" * (LINE // 2)).encode() + b"\r\n", _TYPE_UTF8),
        text("empty_body", b""),
        text("from_lines", _crlf("From here mbox writers put a > in front.\n>From before them\n>>From twice\n\nFrom me Tue Jan  2 03:04:05 2024\n")),
        text("blanks_at_line_ends", _crlf("a blank \na tab\t\nboth \t \n   \n\t\n")),
        text("blank_lines_at_the_end", _crlf("\n\nText between empty lines.\n\n\n\n\n")),
        # Commands and answers of SMTP, POP3 and IMAP: inside a message they are text.
        text("words_of_the_protocol", _crlf("QUIT\nRSET\nDATA\n+OK\n* BYE\na1 OK done\n)\n{12}\n250 ok\n")),
    ]


def _headers(sender: str, recipient: str, tag: str) -> list[Sample]:
    def with_header(name: str, extra: str, subject: str = "") -> Sample:
        return Sample(name, message(name, sender, recipient, tag, _TYPE_TEXT, b"The header is what matters.\r\n", extra, subject))

    references = "\r\n\t".join(f"<{number:04d}.{'r' * 50}@list.example.org>" for number in range(120))
    words = "\r\n ".join(f"word{number}" for number in range(80))
    raw = (
        f'From: "Jürgen Müller" <{sender}>\r\nTo: "Zoë" <{recipient}>\r\nSubject: Grüße – 你好 {tag}\r\nDate: {DATE}\r\n'
        f"Message-ID: <raw_utf8_header.{tag}@{sender.rpartition('@')[2]}>\r\nMIME-Version: 1.0\r\n{_TYPE_UTF8}\r\n\r\nGrüße.\r\n"
    )
    return [
        # RFC 2047 encoded words, and RFC 2231 parameters in the attachments below.
        with_header(
            "encoded_words",
            "X-Name: =?iso-8859-1?Q?J=FCrgen_M=FCller?= =?utf-8?B?4pyJ?=\r\nReply-To: =?utf-8?Q?Zo=C3=AB?= <zoe@example.org>\r\n",
            f"=?utf-8?B?{base64.b64encode('Grüße – 你好'.encode()).decode()}?= {tag}",
        ),
        with_header("long_folded_headers", f"References: {references}\r\nX-Words: {words}\r\nX-Folded-With-A-Tab: a\r\n\tb\r\n   c\r\n"),
        with_header("odd_headers", f"x-lower-case: y\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Spaces:   three   \r\nX-Long: {'z' * 900}\r\nX:a\r\n"),
        Sample("raw_utf8_header", raw.encode(), smtputf8=True, eightbit=True),
    ]


def _multiparts(sender: str, recipient: str, tag: str) -> list[Sample]:
    def multipart(name: str, kind: str, body: bytes) -> Sample:
        return Sample(name, message(name, sender, recipient, tag, kind, body), eightbit=any(octet > 127 for octet in body))

    every_octet = _base64(bytes(range(256)) * 40)
    attachments = (
        (
            b"This is a message with two files.\r\n"
            b"--part\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nTwo files =E2=80=93 see below.=\r\n\r\n"
            b'--part\r\nContent-Type: application/octet-stream; name="every octet.bin"\r\nContent-Transfer-Encoding: base64\r\n'
            b'Content-Disposition: attachment; filename="every octet.bin"\r\n\r\n' + every_octet + b"--part\r\n"
            b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
            b"Content-Disposition: attachment;\r\n filename*0*=utf-8''Gr%C3%BC%C3%9Fe;\r\n filename*1*=%20aus%20K%C3%B6ln.pdf\r\n\r\n"
        )
        + _base64(b"%PDF-1.7\n%%EOF\n")
        + b"--part--\r\nAn epilogue that nobody sees.\r\n"
    )
    nested = _crlf(
        "--a\nContent-Type: multipart/related; boundary=b\n\n--b\nContent-Type: multipart/alternative; boundary=c\n\n"
        "--c\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nÜber alles.\n"
        '--c\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n<p>Über <b>alles</b>.<img src="cid:i"></p>\n--c--\n\n'
        "--b\nContent-Type: image/gif\nContent-ID: <i>\nContent-Transfer-Encoding: base64\n\n"
        "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7\n--b--\n\n"
        "--a\nContent-Type: message/rfc822\n\nFrom: x@example.org\nSubject: forwarded\nMIME-Version: 1.0\n"
        "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: in a digest\n\n.\nwith a dot\n--d--\n--a--\n"
    )
    boundary = b"--sig\r\n"
    signed = (
        boundary + SIGNED + b"\r\n" + boundary + b"Content-Type: application/pkcs7-signature; name=smime.p7s\r\n"
        b"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=smime.p7s\r\n\r\n" + _base64(SIGNATURE) + b"--sig--\r\n"
    )
    return [
        multipart("attachments", "Content-Type: multipart/mixed; boundary=part", attachments),
        multipart("nested_multipart", "Content-Type: multipart/mixed; boundary=a", nested),
        multipart(
            "smime_signed",
            'Content-Type: multipart/signed; protocol="application/pkcs7-signature";\r\n micalg=sha-256; boundary=sig',
            signed,
        ),
    ]


@cache
def _large() -> bytes:
    """Lines of different lengths, some of which start with a dot: an octet that is lost or doubled shows."""
    block = b"".join(b".%06d %s\r\n" % (number, b"0123456789" * (number % 12)) for number in range(1000))
    return block * (LARGE // len(block))


def _base64(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


# A signed entity (RFC 8551) and its detached CMS signature, made once: ECDSA P-256 with SHA-256 over exactly these octets.
SIGNED = (
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"This text is signed. One changed octet =E2=80=93 and the signature is void.\r\n"
)
SIGNATURE = base64.b64decode(
    """
    MIICAQYJKoZIhvcNAQcCoIIB8jCCAe4CAQExDzANBglghkgBZQMEAgEFADALBgkqhkiG9w0BBwGg
    ggE0MIIBMDCB16ADAgECAgEBMAoGCCqGSM49BAMCMCExHzAdBgNVBAMMFnN0YWNrY3RsIHNhbXBs
    ZSBzaWduZXIwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMCExHzAdBgNVBAMMFnN0
    YWNrY3RsIHNhbXBsZSBzaWduZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQeYPr+WhvzZ6B7
    26yMEpQnKpT5Bz/5dTw9GDmxO3r3Q5msShPTBIiTKlXLsCt4XR3U6ozQJsIw3L8QeNubjzBOMAoG
    CCqGSM49BAMCA0gAMEUCIQCMCX/HUEVSgzK80y95OeZi1Ei2tqVoINUVAkfdTIakuQIgKfImwxbs
    75mxmp4KpEia3UGCcFY6Vpe81uoZAIkWDv4xgZIwgY8CAQEwJjAhMR8wHQYDVQQDDBZzdGFja2N0
    bCBzYW1wbGUgc2lnbmVyAgEBMA0GCWCGSAFlAwQCAQUAMAoGCCqGSM49BAMCBEcwRQIhANTmJTYU
    DAFDo10irlzp2FmxJvb/LSB7fYf3Y4PObX8MAiAC/vDAjBcdun24TO5bvV3iukAUtg3LDO4LgpaD
    rWZ1rw==
    """
)
