"""Mail programs as people have them, against each store and the MTA: what tests/clients/ says each of them to do.

They run in a container of their own on the stack's network, which may do nothing: passwords reach it on standard input, and a tmpfs.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Demo, store_names
from program import docker

from stackctl import images
from stackctl.backends import Backend
from stackctl.labels import NETWORK, project_name
from stackctl.model import Debian
from stackctl.scenario import Case, Context

HERE = Path(__file__).parent.parent / "clients"
READERS, SENDERS = ({path.stem: path.read_text(encoding="utf-8") for path in sorted((HERE / kind).glob("*.sh"))} for kind in ("read", "send"))
# A store in name alone, so that it is built as all images are: no stack knows of it.
PROGRAMS = Backend.model_validate(
    {
        "name": "clients", "family": "clients", "role": "store", "summary": "mail programs", "release": "trixie",
        "listeners": {}, "files": (), "container": {}, "verbs": (), "folder": HERE / "image",
    }
)  # fmt: skip
CA, NO_CA = "/home/person/ca.pem", "/etc/ssl/certs/ca-certificates.crt"  # the second has the roots of the world alone
FOR_SURE = "Surely this text.\n"
STORES = store_names()

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D1", "D2")]


@dataclass(frozen=True)
class Place:
    """Where the programs run: a container, and the stack that it is on the network of."""

    container: str
    demo: Demo

    def run(self, script: str, **words: str) -> subprocess.CompletedProcess[str]:
        """Runs a script in an empty folder that is its home; `words` are variables of it, and never in the environment or an argument."""
        start = 'umask 077\nexport HOME="$(mktemp -d)"\ncd "$HOME"\n' + "".join(f"{name}='{value}'\n" for name, value in words.items())
        # All of it is read before anything runs, so that no program can read it instead.
        lines = ["{", start, script, "} </dev/null"]
        argv = ["docker", "exec", "--interactive", self.container, "sh", "-s"]
        done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False)
        return subprocess.CompletedProcess(argv, done.returncode, done.stdout.replace("\r\n", "\n"), done.stderr)

    def context(self, store: str | None = None) -> Context:
        return Context(self.demo.endpoints, Case(store), os.urandom(4).hex())

    def host(self, service: str) -> str:
        """A service's name on the network, which is one of those in its certificate."""
        return f"{service}.{self.demo.endpoints['domain']}"


@pytest.fixture(scope="module")
def place(demo: Demo) -> Iterator[Place]:
    image = images.build([PROGRAMS], Debian())["clients"]
    container = f"{project_name(demo.name)}-clients"
    network = f"--network={project_name(demo.name)}_{NETWORK}"
    nothing = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/home/person:mode=0700,uid=5005", "--tmpfs=/tmp"]
    try:
        docker("run", "--detach", "--init", f"--name={container}", network, *nothing, image)
        found = Place(container, demo)
        subprocess.run(["docker", "exec", "-i", container, "sh", "-c", f"cat >{CA}"], input=Path(demo.endpoints["ca"]).read_bytes(), check=True)
        yield found
    finally:
        docker("rm", "--force", container)


@dataclass(frozen=True)
class Box:
    """A mailbox with one message."""

    context: Context
    address: str
    words: Mapping[str, str]

    def read(self, place: Place, program: str, **words: str) -> subprocess.CompletedProcess[str]:
        return place.run(READERS[program], **{**self.words, **words})


def filled(place: Place, store: str) -> Box:
    context = place.context(store)
    address = context.fresh()
    context.send(address, context.message(context.sender("smtp"), address, "here", body=FOR_SURE.encode()), way="smtp")
    context.mailbox(address, 1)
    words = {"host": place.host(store), "user": address, "password": context.password(address), "subject": f"here {context.tag}", "ca": CA, "keep": "keep"}
    return Box(context, address, words)


@pytest.fixture(scope="module")
def boxes(place: Place) -> Callable[[str], Box]:
    """The mailbox of each store that nobody deletes from."""
    made: dict[str, Box] = {}

    def box(store: str) -> Box:
        return made.get(store) or made.setdefault(store, filled(place, store))

    return box


@pytest.mark.parametrize("program", [name for name in READERS if name != "mbsync"])  # which is tried below, with folders
@pytest.mark.parametrize("store", STORES)
def test_a_program_reads_and_leaves_the_message_there(place: Place, boxes: Callable[[str], Box], store: str, program: str) -> None:
    box = boxes(store)
    done = box.read(place, program)
    assert done.returncode == 0, done.stderr
    assert f"\nSubject: {box.words['subject']}\n" in done.stdout and done.stdout.count(FOR_SURE) == 1, done.stdout
    assert len(box.context.look(box.address)) == 1


@pytest.mark.parametrize("program", [name for name, script in READERS.items() if "$keep" in script])
@pytest.mark.parametrize("store", STORES)
def test_a_program_deletes_what_it_has_fetched_where_it_is_told_to(place: Place, store: str, program: str) -> None:
    box = filled(place, store)
    done = box.read(place, program, keep="nokeep")
    assert done.returncode == 0 and FOR_SURE in done.stdout, done.stderr
    assert box.context.look(box.address) == []


@pytest.mark.parametrize("store", STORES)
def test_mbsync_makes_every_folder_and_transfers_nothing_twice(place: Place, store: str) -> None:
    box = filled(place, store)
    with box.context.imap(box.address) as imap:
        imap.create(f"{imap.prefix}Projects")
        imap.append(b"Subject: in a folder\r\n\r\nFiled.\r\n", f"{imap.prefix}Projects")
    done = box.read(place, "mbsync")
    assert done.returncode == 0, done.stderr
    assert "mail/INBOX\n" in done.stdout and "mail/Projects\n" in done.stdout
    assert done.stdout.count(FOR_SURE) == done.stdout.count("\nFiled.\n") == 1
    said = re.findall(r"Near: (\+\d+ \*\d+ #\d+ -\d+)", done.stdout + done.stderr)
    assert said == ["+2 *0 #0 -0", "+0 *0 #0 -0"], done.stdout + done.stderr


@pytest.mark.parametrize("store", STORES)
def test_curl_finds_nothing_where_nothing_is(place: Place, boxes: Callable[[str], Box], store: str) -> None:
    """The twin of the search by which it reads."""
    done = boxes(store).read(place, "curl-imaps", subject="not there")
    assert done.returncode != 0 and FOR_SURE not in done.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"password": "not-the-password"}, r"auth|login|log in|password|denied"), ({"ca": NO_CA}, r"certificate|verif")],
    ids=["with a wrong password", "without the CA"],
)
def test_no_program_reads(place: Place, boxes: Callable[[str], Box], changed: Mapping[str, str], said: str) -> None:
    tries = [(boxes(store), program) for store in STORES for program in READERS]
    with ThreadPoolExecutor(len(tries)) as pool:  # some servers take seconds to say no
        for (box, program), done in zip(tries, pool.map(lambda one: one[0].read(place, one[1], **changed), tries), strict=True):
            assert done.returncode != 0 and FOR_SURE not in done.stdout, f"{program}: {done.stdout}"
            assert re.search(said, done.stdout + done.stderr, re.IGNORECASE), f"{program} from {box.words['host']}: {done.stdout}\n{done.stderr}"


# --- Sending


def send(place: Place, program: str, port: str, **changed: str) -> tuple[Context, str, subprocess.CompletedProcess[str]]:
    """A program sends a message to an address that nobody else uses."""
    context = place.context(STORES[0])
    own, to = context.sender("submission"), context.fresh("to")
    subject = f"sent {context.tag}"
    message = f"From: {own}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n{FOR_SURE}"
    words = {"host": place.host("mail"), "port": port, "user": own, "password": context.password(own), "to": to, "subject": subject, "ca": CA}
    return context, to, place.run(f"cat >message <<'EOF'\n{message}EOF\n{SENDERS[program]}", **{**words, **changed})


@pytest.mark.parametrize("port", ["587", "465"])
@pytest.mark.parametrize("program", SENDERS)
def test_a_program_sends_by_the_submission_ports(place: Place, program: str, port: str) -> None:
    context, to, done = send(place, program, port)
    assert done.returncode == 0, done.stdout + done.stderr
    (octets,) = context.mailbox(to, 1)
    assert f"\nSubject: sent {context.tag}\r\n".encode() in octets and FOR_SURE.strip().encode() in octets


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"password": "not-the-password"}, r"auth|login|password|denied"), ({"ca": NO_CA}, r"certificate|verif")],
    ids=["with a wrong password", "without the CA"],
)
def test_no_program_sends(place: Place, changed: Mapping[str, str], said: str) -> None:
    with ThreadPoolExecutor(len(SENDERS)) as pool:
        for program, (context, to, done) in zip(SENDERS, pool.map(lambda name: send(place, name, "587", **changed), SENDERS), strict=True):
            assert done.returncode != 0, f"{program}: {done.stdout}"
            assert re.search(said, done.stdout + done.stderr, re.IGNORECASE), f"{program}: {done.stdout}\n{done.stderr}"
            assert context.look(to) == []


def test_the_container_may_do_nothing_and_knows_no_password(place: Place) -> None:
    about = docker("inspect", place.container)
    assert '"ReadonlyRootfs": true' in about and re.search(r'"CapAdd": null,\s+"CapDrop": \[\s+"ALL"\s+\]', about)
    assert place.context().password(place.context().fresh()) not in about


# --- What fails on purpose: docs/faults.md

POP3 = tuple(name for name in READERS if "pop3" in name)


@pytest.fixture
def fault(cli: Callable[..., subprocess.CompletedProcess[str]]) -> Iterator[Callable[..., None]]:
    """Sets a fault, as `stackctl fault …` does; afterwards nothing fails any more."""

    def put(*arguments: str) -> None:
        done = cli("fault", *arguments)
        assert done.returncode == 0, done.stderr

    yield put
    put("clear")


@pytest.mark.feature("A6", "B5")
@pytest.mark.parametrize(("local", "code"), [("450.rcpt", "450"), ("552.end", "552"), ("554.data", "554")])
def test_every_program_that_sends_is_told_the_fault_of_an_address(place: Place, local: str, code: str) -> None:
    to = f"{local}+clients@fault.example.test"
    with ThreadPoolExecutor(len(SENDERS)) as pool:
        for program, (_, _, done) in zip(SENDERS, pool.map(lambda name: send(place, name, "587", to=to), SENDERS), strict=True):
            assert done.returncode != 0, f"{program}: {done.stdout}"
            # At the end of the data curl says of any refusal that it is weird.
            assert re.search(f"{code}|Weird server reply", done.stdout + done.stderr), f"{program}: {done.stdout}\n{done.stderr}"


@pytest.mark.feature("A6", "B5")
@pytest.mark.parametrize(
    ("arguments", "said", "unharmed"),
    [
        (("certificate", "expired"), r"certificate|verif|expired", ()),
        (("certificate", "old-tls"), r"protocol|version|ssl|tls|handshake", ()),
        (("logins",), r"temporary|unavailable|auth|login|response reading failed", ()),  # Courier, of the stores, hangs up
        (("connection", "{store}.imaps", "--refuse"), r"refused|connect|closed|reset|eof|handshake|ssl|recv|socket|error", POP3),
    ],
    ids=["expired", "old-tls", "logins", "refused"],
)
def test_every_program_that_reads_meets_a_fault(
    place: Place, boxes: Callable[[str], Box], fault: Callable[..., None], arguments: tuple[str, ...], said: str, unharmed: tuple[str, ...]
) -> None:
    box, other = boxes(STORES[0]), boxes(STORES[1])
    fault(*(word.format(store=STORES[0]) for word in arguments))
    with ThreadPoolExecutor(len(READERS)) as pool:
        for program, done in zip(READERS, pool.map(lambda name: box.read(place, name), READERS), strict=True):
            if program in unharmed:
                assert done.returncode == 0 and FOR_SURE in done.stdout, f"{program}: {done.stderr}"
            else:
                assert done.returncode != 0 and FOR_SURE not in done.stdout, f"{program}: {done.stdout}"
                assert re.search(said, done.stdout + done.stderr, re.IGNORECASE), f"{program}: {done.stdout}\n{done.stderr}"
    if unharmed:
        assert FOR_SURE in other.read(place, "curl-imaps").stdout, "the other stores go on"
    fault("clear")
    assert FOR_SURE in box.read(place, "curl-imaps").stdout
