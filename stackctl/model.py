"""What a stack is: the frozen values that stack.yaml describes, with every default. Never reads a file.

Each key carries its description, so that the JSON Schema, `stackctl init` and the table in
docs/stack-yaml.md say the same thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema, model_validator

from stackctl.labels import NAME

# RFC 1035 2.3.1 label, RFC 1123 2.1 (a digit may lead); at least two labels, at most 253 octets.
_DOMAIN = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# RFC 5321 4.1.2 Dot-string, 4.5.3.1.1: a local part of at most 64 octets. "+" separates the detail (RFC 5233).
_LOCAL = re.compile(r"(?=.{1,64}$)[a-z0-9!#$%&'*/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*/=?^_`{|}~-]+)*")
_HOST_LABELS = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
# A next hop as MTAs write it: a host in brackets, or a domain whose mail exchangers are asked for.
_NEXT_HOP = re.compile(rf"(\[(?P<host>[0-9a-f:.]+|{_HOST_LABELS})\]|(?P<domain>{_HOST_LABELS}))(:(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE)
# What /etc/aliases is used for in practice, and nothing that a table or a shell reads otherwise.
_ALIAS_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
_INCLUDE = re.compile(r":include:(?P<path>[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)")
_MAIL_FILE = re.compile(r"/[A-Za-z0-9._/+-]{1,250}")
_COMMAND = re.compile(r"\|[\x20-\x7e]{1,1000}")
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMG]?)(?:i?B)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What useradd(8) takes, in the length that utmp(5) has room for.
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# What each server can say after its greeting code, whatever it makes of quotes, variables and comments in its own files.
_GREETING = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 .,:;!?'()*+/<=>@_-]{0,198}[A-Za-z0-9.!?)>*])?")


def domain(value: str) -> str:
    """A domain name in lower case; ValueError when it is none."""
    value = value.lower()
    if not _DOMAIN.fullmatch(value) or value.rpartition(".")[2].isdigit():  # RFC 3696 2: the last label is not all digits; 192.0.2.1
        raise ValueError(f"'{value}' is not a domain name such as example.test")
    return value


def address(value: str) -> str:
    """An addr-spec in lower case, without quoting and without "+detail"; ValueError when it is none."""
    local, at, host = value.lower().rpartition("@")
    if not at:
        raise ValueError(f"'{value}' is not an address such as alice@example.test")
    if not _LOCAL.fullmatch(local):
        what = "must not hold '+': it separates the detail of a sub-address" if "+" in local else "is no local part (RFC 5321 Dot-string)"
        raise ValueError(f"'{local}' in '{value}' {what}")
    return f"{local}@{domain(host)}"


def mailbox(value: str) -> str:
    """An address as `address` gives it that can have a mailbox; ValueError when it is none, or when a server would not take it for one."""
    found = address(value)
    why = (
        "must not hold '/': it is the name of a folder in a store"
        if "/" in found
        else f"must not begin with '{found[0]}': MTAs refuse such a recipient, which a program could take for an option"
        if found[0] == "-"
        else f"must not begin with '{found[0]}': a line of a file of accounts that does so is a comment"
        if found[0] == "#"
        else ""
    )
    if why:
        raise ValueError(f"'{found.rpartition('@')[0]}' in '{value}' {why}")
    return found


def alias_name(value: str) -> str:
    """A name without a domain, in lower case; ValueError when it is none."""
    if not _ALIAS_NAME.fullmatch(value.lower()):
        raise ValueError(f"'{printable(value)}' is not a name such as postmaster: letters, digits, '.', '_' and '-', at most 64")
    return value.lower()


def alias_target(value: str) -> str:
    """What a system alias may stand for (aliases(5)): an address, a name, `|command`, `/file` or `:include:file`; ValueError for anything else."""
    printable(value)
    if value.startswith("|"):
        if not _COMMAND.fullmatch(value) or not value[1:].strip():
            raise ValueError("is not a command such as '|/bin/cat': printable ASCII, at most 1000 characters")
        return value
    if value.startswith(":"):
        if not _INCLUDE.fullmatch(value):
            raise ValueError(f"'{value}' is not such as :include:ops.list, with a file beside stack.yaml")
        return value
    if value.startswith("/"):
        if not _MAIL_FILE.fullmatch(value):
            raise ValueError(f"'{value}' is not a file such as /dev/null: letters, digits, '.', '_', '+', '-' and '/'")
        return value
    return address(value) if "@" in value else alias_name(value)


def octets(value: object) -> object:
    """A size in octets from 1048576, "512K", "50M" or "1G" (powers of 1024); ValueError for another text."""
    if not isinstance(value, str):
        return value
    if not (found := _SIZE.fullmatch(value.strip())):
        raise ValueError(f"'{value}' is not a size such as 1048576, 512K, 50M or 1G")
    return int(found[1]) * 1024 ** " KMG".index(found[2].upper() or " ")


def host_name(value: str) -> str:
    """A host name in lower case: a domain name, or a single label such as localhost; ValueError when it is none."""
    value = value.lower()
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        return domain(value)
    return value


def name(value: str) -> str:
    """A name for a stack or a store; ValueError when containers, hosts and volumes cannot carry it."""
    if not NAME.fullmatch(value):
        raise ValueError(f"'{value}' is not a name: lower-case letters, digits and '-', at most 32")
    return value


def printable(value: str) -> str:
    """A text without control characters: it ends up in a configuration file, where a line end starts a new setting."""
    if _CONTROL.search(value):
        raise ValueError("holds a control character (a line end would start another setting in a server's configuration)")
    return value


def prose(value: str) -> str:
    """A text of several lines for a terminal; ValueError where a control character other than a line end or a tabulator is in it."""
    if _CONTROL.search(value.replace("\n", "").replace("\t", "")):
        raise ValueError("holds a control character other than a line end or a tabulator")
    return value


def login_name(value: str) -> str:
    """A name for a system user; ValueError when a system does not take it."""
    if not _LOGIN.fullmatch(value):
        raise ValueError(f"'{printable(value)}' is not a login name such as alice: a lower-case letter first, then letters, digits, '_' and '-', at most 32")
    return value


def greeting(value: str) -> str:
    """A text that servers greet with (RFC 5321 4.2 textstring, RFC 9051 text); ValueError for one that their files would read otherwise."""
    if not _GREETING.fullmatch(value):
        raise ValueError("is not a greeting: ASCII letters, digits, spaces and .,:;!?'()*+/<=>@_-, at most 200, a letter or digit first")
    return value


def gecos(value: str) -> str:
    """A full name; ValueError when passwd(5) cannot hold it."""
    if ":" in printable(value) or "," in value:
        raise ValueError("holds ':' or ',', which divide the fields of a passwd file")
    return value


def native(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pass-through settings whose every key and text is printable."""

    def walk(item: object) -> None:
        if isinstance(item, str):
            printable(item)
        elif isinstance(item, dict):
            for key, inner in item.items():
                walk(str(key))
                walk(inner)
        elif isinstance(item, list):
            for inner in item:
                walk(inner)

    walk(value)
    return value


Domain = Annotated[str, AfterValidator(domain)]
Host = Annotated[str, AfterValidator(host_name)]
Address = Annotated[str, AfterValidator(address)]
Mailbox = Annotated[str, AfterValidator(mailbox)]
Name = Annotated[str, AfterValidator(name)]
AliasName = Annotated[str, AfterValidator(alias_name)]
AliasTarget = Annotated[str, AfterValidator(alias_target)]
Text = Annotated[str, AfterValidator(printable)]
Prose = Annotated[str, AfterValidator(prose), Field(max_length=4096)]
LoginName = Annotated[str, AfterValidator(login_name)]
FullName = Annotated[str, AfterValidator(gecos), Field(max_length=100)]
Greeting = Annotated[str, AfterValidator(greeting)]
Octets = Annotated[  # at most an EiB: every server counts in 64 bits
    int,
    BeforeValidator(octets),
    Field(ge=1, le=1024**6),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024**6}, {"type": "string", "pattern": r"^[0-9]+ *([KMGkmg]?)(i?[Bb])?$"}]}),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Settings = Annotated[dict[str, dict[str, Any]], AfterValidator(native)]


class Frozen(BaseModel):
    """The base of all values here: immutable, no unknown key, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Auth(Frozen):
    """How clients log in."""

    mechanisms: tuple[Text, ...] = Field(
        ("PLAIN", "LOGIN"), min_length=1, description="The SASL mechanisms that are offered, by their names in IANA's registry; the MTA offers those of them that it has."
    )


class Mta(Frozen):
    """The server that accepts mail."""

    backend: Text = Field("postfix", description="Which MTA: a folder of images/ with the role mta.")
    version: Text | None = Field(None, description="Which version of it, where images/ has several.")
    settings: Settings = Field(default_factory=dict, description="Native settings handed through, by configuration file: `main_cf: {…}`, `master_cf: {…}`.")


class Store(Frozen):
    """A server that keeps mailboxes and serves them."""

    name: Name | None = Field(None, description="What commands call this store; the backend's name unless given.")
    backend: Text = Field(description="Which server: a folder of images/ with the role store.")
    version: Text | None = Field(None, description='Which version of it, where images/ has several: `"2.3"`.')
    delivery: Text | None = Field(
        None, description="How the MTA hands mail over (lmtp, smtp, maildir, mbox, dovecot-lda, procmail, maildrop); the backend's first way unless given."
    )
    mailbox: Literal["maildir", "mbox", "sdbox", "mdbox"] = Field("maildir", description="The mailbox format on disk.")
    listeners: tuple[Text, ...] | None = Field(None, min_length=1, description="The listeners that are open, imaps among them: `[imaps, pop3s]`; every one unless given.")
    auth: Auth | None = Field(None, description="How clients log in to this store, where not as the stack's own `auth` says.")
    settings: Settings = Field(default_factory=dict, description="Native settings handed through, by configuration file: `dovecot_conf: {…}`, `imapd: {…}`.")


class Scripts(Frozen):
    """Scripts that file, forward or drop mail, each in its own language. `load` puts the text of a file in its name's place."""

    sieve: Text | None = Field(None, description="A Sieve script (RFC 5228), until the person puts another in its place by ManageSieve; a file beside stack.yaml.")
    procmail: Text | None = Field(None, description="Recipes as in ~/.procmailrc, for stores with `delivery: procmail`; a file beside stack.yaml.")
    maildrop: Text | None = Field(None, description="Instructions as in ~/.mailfilter, for stores with `delivery: maildrop` or `smtp`; a file beside stack.yaml.")


class Filters(Scripts):
    """A person's scripts."""

    instructions: Text | None = Field(None, description="Delivery instructions as in ~/.courier, for stores with `delivery: smtp`; a file beside stack.yaml.")


class CommonFilters(Scripts):
    """Scripts for everybody."""

    sieve_before: Text | None = Field(None, description="A Sieve script that runs before everybody's own; a file beside stack.yaml.")
    sieve: Text | None = Field(None, description="The Sieve script of those who have none of their own; a file beside stack.yaml.")
    procmail: Text | None = Field(None, description="Recipes that run before everybody's own, as in /etc/procmailrc; a file beside stack.yaml.")
    maildrop: Text | None = Field(None, description="Instructions that run before everybody's own, as in /etc/maildroprc; a file beside stack.yaml.")
    perl: Text | None = Field(None, description="Perl that judges each message, courierperlfilter(8), for stores with `delivery: smtp`; a file beside stack.yaml.")


class Quota(Frozen):
    """What a mailbox may hold. A size alone stands for `storage`."""

    storage: Octets | None = Field(None, description="Octets of all messages, or as 100M; `mailbox_size_limit` unless given.")
    messages: int | None = Field(None, ge=1, le=10**9, description="How many messages; no limit unless given.")

    @model_validator(mode="before")
    @classmethod
    def _size(cls, raw: Any) -> Any:
        return {"storage": raw} if isinstance(raw, int | str) else raw


class User(Frozen):
    """A person with a mailbox in every store."""

    address: Mailbox = Field(description="The mail address, which is the login name too.")
    password: Text | None = Field(
        None, min_length=1, max_length=256, repr=False, description="The password in clear; one is generated unless this or password_file is given."
    )
    password_file: Text | None = Field(None, description="A file whose first line is the password; relative to stack.yaml.")
    aliases: tuple[Address, ...] = Field((), description="Further addresses of this person.")
    any_sender: bool | None = Field(None, description="Whether this login may send as any address that is no other user's, as another server does that relays here.")
    quota: Quota | None = Field(None, description="What the mailbox may hold: a size such as 100M, or `{storage: 100M, messages: 1000}`.")
    filters: Filters = Field(default_factory=lambda: Filters(), description="What becomes of this person's mail on its way into the mailbox.")


class NextHop(Frozen):
    """Where mail is handed to: another host, or another stack. As a text it is `[host]:port`, or `domain:port` for the exchangers of a domain.

    `load` puts the password of `password_file`, and the certificates of `ca_file`, in the place of the files' names.
    """

    host: Text | None = Field(None, description="The name or address of the host; what another stack's certificate says, where `stack` is given.")
    stack: Name | None = Field(None, description="Another stack of this machine: a network of their own joins the two MTAs.")
    port: Port | None = Field(None, description="The port; 25, or 587 with a login, unless given.")
    mx: bool | None = Field(None, description="Whether `host` is a domain whose mail exchangers (MX) are asked for.")
    username: Text | None = Field(None, description="The login, where the next hop wants one (SASL).")
    password: Text | None = Field(None, min_length=1, max_length=256, repr=False, description="The password in clear.")
    password_file: Text | None = Field(None, description="A file whose first line is the password; relative to stack.yaml.")
    tls: Literal["none", "may", "encrypt", "verify"] | None = Field(
        None, description="What is asked of TLS; verify for a stack, encrypt with a login, else may, unless given."
    )
    ca_file: Text | None = Field(None, description="The certificates of the CAs that sign for it (PEM), relative to stack.yaml; the local CA is trusted too.")

    @model_validator(mode="before")
    @classmethod
    def _text(cls, raw: Any) -> Any:
        if not isinstance(raw, str):
            return raw
        found = _NEXT_HOP.fullmatch(printable(raw))
        if not found or not 0 < int(found["port"] or 25) < 65536:
            raise ValueError(f"'{raw}' is not a host: write [host]:port, host:port or host, without a scheme")
        return {
            "host": found["host"] or found["domain"],
            **({"port": int(found["port"])} if found["port"] else {}),
            **({"mx": True} if found["domain"] else {}),
        }

    @property
    def security(self) -> str:
        """What is asked of TLS: none, may, encrypt or verify."""
        return self.tls or ("verify" if self.stack else "encrypt" if self.username else "may")

    @property
    def destination(self) -> str:
        """The next hop as MTAs write it; the host is known by now."""
        port = self.port or (587 if self.username else None)
        return (f"{self.host}" if self.mx else f"[{self.host}]") + (f":{port}" if port else "")


class Tls(Frozen):
    """What the listeners ask of TLS."""

    minimum_version: Literal["TLSv1.2", "TLSv1.3"] = Field("TLSv1.2", description="The oldest protocol version that is accepted.")
    ciphers: Text | None = Field(None, description="The cipher list of TLS 1.2 in OpenSSL's syntax; forward secrecy with AEAD only, unless given.")
    prefer: Literal["server", "client"] = Field("server", description="Whose order of ciphers counts.")
    require: bool = Field(True, description="Whether a login needs TLS. Mail from other hosts on port 25 may always come without.")
    plaintext_listeners: bool = Field(True, description="Whether the ports that start in plain text (143, 110, 587) are open at all.")
    names: tuple[Domain, ...] = Field((), description="Further host names in the certificate.")
    sni: tuple[Domain, ...] = Field((), description="Host names that have a certificate of their own each, for clients that ask for the name (SNI).")


class Ports(Frozen):
    """Where the services are published on this machine."""

    address: Text = Field("127.0.0.1", description="The address to publish on. Anything but loopback lets other machines in.")
    fixed: dict[Text, Port] = Field(
        default_factory=dict, description="Fixed ports by service and listener, `mta.smtp: 2525`; every other one is a free port, kept until `down`."
    )


class Debian(Frozen):
    """Where packages come from."""

    mirror: Text | None = Field(None, description="The Debian mirror for base image and packages; this machine's own, unless given.")
    release: Text | None = Field(None, description="The Debian release of MTA and stores, and of all else that works with it; each backend's own unless given.")


class Accounts(Frozen):
    """Where accounts are looked up."""

    backend: Text = Field(
        "file",
        description="Where accounts are: file; system, as users of each server's system; or a directory that can be changed by its own tools: sqlite, postgres, ldap.",
    )


class Limits(Frozen):
    """Bounds on what the services may use."""

    memory: Octets | None = Field(None, description="Memory of each container, in octets or as 256M; no limit unless given.")
    pids: int = Field(400, ge=50, le=100_000, description="Processes of each container.")
    auth_failure_delay: float = Field(2.0, ge=0, le=30, description="Seconds until a wrong password is answered, where the server can set it.")


class Greetings(Frozen):
    """What servers say to whoever connects."""

    smtp: Greeting | None = Field(None, description="What the MTA says behind its host name, which comes first always (RFC 5321); `ESMTP` and its own name unless given.")
    imap: Greeting | None = Field(None, description="What IMAP servers say, where the server can say another text than its own.")
    pop3: Greeting | None = Field(None, description="What POP3 servers say, where the server can say another text than its own.")


class HostUser(Frozen):
    """A person with a login on the host."""

    name: LoginName = Field(description="The login name; the address is this name at `host.` the main domain.")
    password: Text | None = Field(None, min_length=1, max_length=256, repr=False, description="The password in clear; one is made unless given.")
    password_file: Text | None = Field(None, description="A file whose first line is the password; relative to stack.yaml.")
    full_name: FullName = Field("", description="The name in the passwd file.")
    shell: Literal["/bin/bash", "/bin/sh", "/usr/sbin/nologin"] = Field("/bin/bash", description="The login shell; /usr/sbin/nologin for a mailbox without a login.")
    mailbox: Literal["mbox", "maildir"] = Field("mbox", description="Where mail goes: mbox for /var/mail/NAME, maildir for ~/Maildir/.")
    procmail: bool = Field(False, description="Whether procmail(1) delivers, by the person's ~/.procmailrc.")


class LoginHost(Frozen):
    """A login host: a classic system with a shell, the mail command and system users."""

    users: tuple[HostUser, ...] = Field(
        default_factory=lambda: (HostUser(name="alice"), HostUser(name="bob", mailbox="maildir")),
        description="Who has a login; alice (mbox) and bob (Maildir) unless given.",
    )
    motd: Prose = Field("", description="What a person sees after login (/etc/motd).")
    issue: Prose = Field("", description="What stands before `stackctl login` (/etc/issue).")
    issue_net: Prose = Field("", description="What stands before the login of a telnet connection (/etc/issue.net).")
    telnet: bool = Field(False, description="Whether the host listens for telnet, where passwords come in clear; not with `plaintext_listeners: false`.")


class Webmail(Frozen):
    """A web page where people read and send their mail."""

    backend: Text = Field("roundcube", description="Which program: a folder of images/ with the role webmail.")
    store: Name | None = Field(None, description="The store whose mailboxes it shows, by its name; the first one that it can show unless given.")


class MailingList(Frozen):
    """A mailing list, which people join and leave by mail."""

    owner: Address = Field(description="Who gets what is written to the list's `-owner` address.")
    subscribers: tuple[Address, ...] = Field((), description="Who is on the list, besides those who join by mail.")
    post: Literal["subscribers", "moderated", "all"] = Field(
        "subscribers", description="Who may write to it: everybody, or those who are on it, each message after the owner has approved it where it is moderated."
    )
    digest: int | None = Field(
        None, ge=1, le=24 * 366, description="Hours after which messages go in one to those who joined the list's `-digest` address; none unless given."
    )


# RFC 3463: the enhanced status that usually goes with a reply that is made on purpose.
STATUSES = {421: "4.3.2", 450: "4.2.1", 451: "4.7.1", 452: "4.2.2", 454: "4.7.0", 530: "5.7.0", 550: "5.1.1", 552: "5.2.2", 553: "5.1.3", 554: "5.7.1"}


@dataclass(frozen=True)
class Fault:
    """Mail for an address that fails on purpose, while it is set.

    `address` is one, or "@" and a domain; `at` the stage: mail (then it is the sender), rcpt, data, end (of the data), or delivery, of `store` or of all;
    `reply` the SMTP code, `status` and `text` what goes with it. `times` limits it to so many attempts of each address, `delay` (seconds) waits
    instead of a reply. At the stage full the mailbox has no room. Two stages meet everybody, and have a word in place of the address: connect, where
    `per_minute` means the clients beyond that number in a minute, and login.
    """

    id: str
    address: str
    at: str
    reply: int | None
    status: str
    text: str
    times: int | None = None
    delay: int = 0
    store: str | None = None
    per_minute: int | None = None


class Stack(Frozen):
    """A whole mail system; every key has a default, so an empty file is the demo stack."""

    name: Name = Field("demo", description="The stack's name: prefix of its containers and volumes.")
    domain: Domain = Field("example.test", description="The main domain; its users are strict, an unknown one is refused at RCPT.")
    domains: tuple[Domain, ...] = Field((), description="Further domains of the same kind.")
    disposable_domain: Domain | None = Field(None, description="The domain in which every address exists; `inbox.` before the main domain unless given.")
    mta: Mta = Field(default_factory=lambda: Mta(), description="The server that accepts mail.")
    stores: tuple[Store, ...] = Field(
        default_factory=lambda: (Store(backend="dovecot"), Store(backend="courier")),
        min_length=1,
        description="The servers that keep mailboxes; every message goes to each of them.",
    )
    users: tuple[User, ...] = Field((), description="The people with a mailbox; alice and bob in the main domain unless given.")
    accounts: Accounts = Field(default_factory=lambda: Accounts(), description="Where the accounts of users are looked up.")
    auth: Auth = Field(default_factory=lambda: Auth(), description="How clients log in.")
    aliases: dict[Address, tuple[Address, ...]] = Field(default_factory=dict, description="Addresses that stand for others: `team@example.test: [alice@example.test]`.")
    lists: dict[Mailbox, MailingList] = Field(
        default_factory=dict, description="Mailing lists, in the first store that has a list manager: `team@example.test: {owner: alice@example.test}`."
    )
    system_aliases: dict[AliasName, tuple[AliasTarget, ...]] = Field(
        default_factory=dict,
        description="Names without a domain, as in /etc/aliases; each stands for names, addresses, commands, files or `:include:file`. "
        "mailer-daemon, postmaster and root lead on to the catch-all mailbox unless given.",
    )
    filters: CommonFilters = Field(default_factory=lambda: CommonFilters(), description="What becomes of everybody's mail on its way into the mailbox.")
    catch_all: Mailbox | None = Field(None, description="Whose mailbox takes mail for foreign domains; `catch-all@` the main domain, made for it, unless given.")
    domain_catch_all: dict[Domain, Address] = Field(
        default_factory=dict, description="Who gets the mail for unknown addresses of a domain, which are refused otherwise: `example.org: alice@example.test`."
    )
    myorigin: Host | None = Field(None, description="What is put behind a bare name such as root; the main domain unless given.")
    mydestination: tuple[Host, ...] = Field((), description="Further domains of the MTA itself, beside `mail.` the main domain and localhost: system aliases live there.")
    relayhost: NextHop | None = Field(
        None, description="Hand mail for foreign domains to this host instead, `[host]:port` or a mapping. Opens the network to the outside, but not for another stack."
    )
    routes: dict[Domain, NextHop] = Field(default_factory=dict, description="Next hops of single domains, each as `relayhost` has it: `other.test: {stack: other}`.")
    mynetworks: tuple[Text, ...] = Field(("127.0.0.0/8",), description="Client networks that may relay without a login.")
    message_size_limit: Octets = Field(50 * 1024**2, description="The largest message, in octets or as 50M.")
    mailbox_size_limit: Octets | None = Field(
        None, description="What the mailbox of a user may hold who has no `quota` of storage, in octets or as 1G; no limit unless given."
    )
    over_quota: Literal["bounce", "defer"] = Field(
        "bounce", description="What becomes of a message for which a mailbox has no room: back to its sender, or kept in the queue until there is room."
    )
    greetings: Greetings = Field(default_factory=lambda: Greetings(), description="What servers say to whoever connects.")
    host: LoginHost | None = Field(None, description="A login host beside the servers; `host: {}` for one with every default, none unless given.")
    webmail: Webmail | None = Field(None, description="Mail in a browser; `webmail: {}` for one with every default, none unless given.")
    tls: Tls = Field(default_factory=lambda: Tls(), description="TLS of every listener.")
    ports: Ports = Field(default_factory=lambda: Ports(), description="Where the services are published.")
    debian: Debian = Field(default_factory=lambda: Debian(), description="Where packages come from.")
    limits: Limits = Field(default_factory=lambda: Limits(), description="Bounds on what the services may use.")

    # The lines of each file that a system alias includes, by its name; `load` reads them.
    _included: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)
    # What is made to fail while the stack runs.
    _faults: tuple[Fault, ...] = PrivateAttr(default=())
    _certificate_fault: str = PrivateAttr(default="")

    @model_validator(mode="before")
    @classmethod
    def _alice_and_bob(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("users") is None:
            main = raw.get("domain", cls.model_fields["domain"].default)
            return {**raw, "users": tuple({"address": f"{who}@{main}"} for who in ("alice", "bob"))}
        return raw

    @property
    def disposable(self) -> str:
        """The domain in which every address exists."""
        return self.disposable_domain or f"inbox.{self.domain}"

    @property
    def strict_domains(self) -> tuple[str, ...]:
        """The domains whose unknown users are refused, the main one first."""
        return (self.domain, *(d for d in self.domains if d != self.domain))

    @property
    def certified(self) -> tuple[str, ...]:
        """The domains that the stack's certificates need the CA for."""
        return (self.domain, *self.tls.names, *self.tls.sni)

    @property
    def included(self) -> dict[str, tuple[str, ...]]:
        """The targets in each file that a system alias includes, by its name below the folder of stack.yaml."""
        return self._included

    def including(self, files: dict[str, tuple[str, ...]]) -> Stack:
        """The same stack with what its included files hold."""
        made = self.model_copy()
        made._included = files
        return made

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What fails on purpose."""
        return self._faults

    @property
    def certificate_fault(self) -> str:
        """What is wrong with every certificate on purpose, one of ca.FAULTS; old-tls where it is the versions of TLS that are; "" for nothing."""
        return self._certificate_fault

    def failing(self, faults: tuple[Fault, ...], certificate: str) -> Stack:
        """The same stack with these faults."""
        made = self.model_copy()
        made._faults, made._certificate_fault = faults, certificate
        return made

    @property
    def fault_domain(self) -> str | None:
        """The domain in which an address is a fault, None where stack.yaml uses that name for something else."""
        name = f"fault.{self.domain}"
        return None if name in (*self.strict_domains, self.disposable, *self.local_domains, *self.routes) else name

    @property
    def local_domains(self) -> tuple[str, ...]:
        """The domains of the MTA itself, in which the system aliases are; its host name first."""
        return tuple(dict.fromkeys([f"mail.{self.domain}", "localhost", *self.mydestination]))

    @property
    def host_domain(self) -> str:
        """The domain of the login host's system users."""
        return f"host.{self.domain}"

    def host_address(self, user: HostUser) -> str:
        """The address of a system user."""
        return f"{user.name}@{self.host_domain}"

    @property
    def next_hops(self) -> tuple[NextHop, ...]:
        """Every host that mail is handed to, the relayhost first."""
        return (*filter(None, [self.relayhost]), *self.routes.values())

    @property
    def peers(self) -> tuple[str, ...]:
        """The stacks that mail is handed to."""
        return tuple(dict.fromkeys(hop.stack for hop in self.next_hops if hop.stack))

    @property
    def reaches_outside(self) -> bool:
        """Whether mail may leave this machine's stacks."""
        return any(not hop.stack for hop in self.next_hops)

    @property
    def catch_all_address(self) -> str:
        """The mailbox that takes mail for foreign domains."""
        return self.catch_all or f"catch-all@{self.domain}"
