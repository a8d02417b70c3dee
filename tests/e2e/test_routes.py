"""Who the MTA is and where it hands mail: each setting by what it does to a real message, and two stacks that hand mail to each other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME
from program import docker, left, until

from stackctl import inventory, peers, running, stack, state
from stackctl.clients.imap import Imap
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.errors import BadStack, UsageError
from stackctl.load import parse
from stackctl.render import RELAY_PORT

pytestmark = pytest.mark.e2e
A, B = f"{NAME}-a", f"{NAME}-b"
PASSWORD = "relay password 5 $x"
PRIVATE = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]  # clients of this machine come from the bridge's address
WITHIN = 60  # seconds


@dataclass
class Joined:
    """A stack, its file, and what it said of itself when it came up last."""

    path: Path
    file: dict[str, Any]
    endpoints: dict[str, Any]
    mta: str = ""

    def up(self, **changes: Any) -> None:
        """Brings it up as its file says, with top-level keys changed."""
        self.path.write_text(yaml.safe_dump({**self.file, **changes}), encoding="utf-8")
        up = stack.up(self.path)
        self.endpoints = running.endpoints(up.state, secrets=True)
        self.mta = up.state.containers["mta"]

    def send(self, sender: str, to: str, subject: str, via: str = "submission", login: str | None = None) -> None:
        with Smtp(Where.of(self.endpoints, "mta", via)) as smtp:
            if login:
                smtp.login(login, self.password(login))
            smtp.send(sender, [to], f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nhello\r\n".encode())

    def password(self, who: str) -> str:
        accounts = [*self.endpoints["accounts"], self.endpoints["catch_all"]]
        return str(next(account["password"] for account in accounts if account["address"] == who))

    def message(self, who: str, subject: str, within: float = WITHIN) -> Message:
        with Imap(Where.of(self.endpoints, "dovecot", "imaps")) as imap:
            imap.login(who, self.password(who))
            (found, *_) = imap.wait(subject=f"^{subject}$", timeout=within)
            return message_from_bytes(imap.fetch(found.uid))

    def has(self, who: str, subject: str) -> bool:
        with Imap(Where.of(self.endpoints, "dovecot", "imaps")) as imap:
            imap.login(who, self.password(who))
            imap.select()
            return any(one.subject == subject for one in imap.summaries(imap.uids()))

    def waiting(self) -> str:
        """The reasons why messages wait in the queue, as one text."""
        rows = [json.loads(line) for line in docker("exec", self.mta, "postqueue", "-j").splitlines()]
        return "\n".join(recipient.get("delay_reason", "") for row in rows for recipient in row["recipients"])

    def log(self) -> str:
        done = subprocess.run(["docker", "logs", self.mta], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Joined, Joined]]:
    """Two stacks that know each other; the first relays through the second, with a login and verified TLS."""
    folder = tmp_path_factory.mktemp("routes")
    (folder / "relay.password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    common: dict[str, Any] = {"stores": [{"backend": "dovecot"}], "limits": {"auth_failure_delay": 0}}
    a = Joined(
        folder / "a.yaml",
        {
            **common,
            "name": A,
            "domain": "a.test",
            "users": [{"address": "ann@a.test"}],
            "myorigin": "host.a.test",
            "mydestination": ["host.a.test"],
            "mynetworks": PRIVATE,
            "relayhost": {"stack": B, "username": "relay@b.test", "password_file": "relay.password"},
            "routes": {"b.test": {"stack": B}},
        },
        {},
    )
    b = Joined(
        folder / "b.yaml",
        {
            **common,
            "name": B,
            "domain": "b.test",
            "users": [{"address": "bea@b.test"}, {"address": "relay@b.test", "any_sender": True, "password": PASSWORD}],
            "routes": {"a.test": {"stack": A, "host": "mail.a.test"}},  # it comes up first: what the other one is called is not known yet
        },
        {},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKCTL_STATE", str(folder / "state"))
        patch.setenv("CAROOT", str(folder / "ca"))
        patch.delenv("STACKCTL_NAME", raising=False)
        try:
            b.up()
            a.up()
            yield a, b
        finally:
            for name in (A, B):
                running.down(name, volumes=True)
            assert not left(A) and not left(B)


def received(message: Message) -> str:
    return "\n".join(" ".join(line.split()) for line in message.get_all("Received", []))


# --- Identity


@pytest.mark.feature("B3")
def test_myorigin_is_put_behind_a_bare_name(two: tuple[Joined, Joined]) -> None:
    a, b = two
    for one, who, origin in ((a, "ann@a.test", "host.a.test"), (b, "bea@b.test", "b.test")):
        text = f"From: root\nTo: {who}\nSubject: from root\n\nhello\n"
        subprocess.run(["docker", "exec", "-i", one.mta, "sendmail", "-t", "-f", "root"], input=text, text=True, timeout=60, check=True)
        message = one.message(who, "from root")
        assert (message["From"], message["Return-Path"]) == (f"root@{origin}", f"<root@{origin}>")


@pytest.mark.feature("B3")
def test_mydestination_is_local_and_its_unknown_users_are_refused(two: tuple[Joined, Joined]) -> None:
    a, b = two
    a.send("joe@foreign.example", "postmaster@host.a.test", "to postmaster", via="smtp")
    assert a.message("catch-all@a.test", "to postmaster")
    with pytest.raises(Refused, match="unknown in local recipient table") as refused:
        a.send("joe@foreign.example", "nobody@host.a.test", "to nobody", via="smtp")
    assert refused.value.code == 550
    with pytest.raises(Refused, match="Relay access denied"):  # where it is no domain of the stack's
        b.send("joe@foreign.example", "postmaster@host.a.test", "to postmaster", via="smtp")


@pytest.mark.feature("B3")
def test_mynetworks_may_relay_without_a_login_and_nobody_else(two: tuple[Joined, Joined]) -> None:
    a, b = two
    a.send("ann@a.test", "joe@foreign.example", "from a friend", via="smtp")
    assert b.message("catch-all@b.test", "from a friend")
    with pytest.raises(Refused, match="Relay access denied") as refused:
        b.send("ann@a.test", "joe@foreign.example", "from a stranger", via="smtp")
    assert refused.value.code in (454, 554)


# --- From one stack to the other


@pytest.mark.feature("B3", "B11")
def test_a_relayed_message_shows_both_hops_with_tls_and_the_login(two: tuple[Joined, Joined]) -> None:
    a, b = two
    a.send("ann@a.test", "joe@foreign.example", "relayed", login="ann@a.test")
    message = b.message("catch-all@b.test", "relayed")
    hops = received(message).splitlines()
    into_b = next(line for line in hops if "by mail.b.test" in line)
    into_a = next(line for line in hops if "by mail.a.test" in line)
    assert hops.index(into_b) < hops.index(into_a), "the last hop stands first"
    assert "from mail.a.test" in into_b and "using TLSv1.3" in into_b and "with ESMTPSA" in into_b  # RFC 3848: S for TLS, A for AUTH
    assert "with ESMTPSA" in into_a
    assert message["Delivered-To"] == "catch-all+joe=foreign.example@b.test" or "joe=foreign.example" in str(message["Delivered-To"])
    assert "Verified TLS connection established to mail.b.test" in a.log()
    assert PASSWORD not in a.log() + b.log()


@pytest.mark.feature("B3", "B11")
def test_each_hands_the_domain_of_the_other_to_it(two: tuple[Joined, Joined]) -> None:
    a, b = two
    a.send("ann@a.test", "bea@b.test", "a to b", login="ann@a.test")
    b.send("bea@b.test", "ann@a.test", "b to a", login="bea@b.test")
    there, back = received(b.message("bea@b.test", "a to b")), received(a.message("ann@a.test", "b to a"))
    for lines, sender, receiver in ((there, "mail.a.test", "mail.b.test"), (back, "mail.b.test", "mail.a.test")):
        hop = next(line for line in lines.splitlines() if f"by {receiver}" in line)
        assert f"from {sender}" in hop and "using TLSv1.3" in hop and "with ESMTPS " in hop  # no login: this is its own domain
    # And an unknown user there comes back to the sender, with the words of the other side.
    a.send("ann@a.test", "nobody@b.test", "to nobody", login="ann@a.test")
    bounce = a.message("ann@a.test", "Undelivered Mail Returned to Sender")
    assert "User unknown" in bounce.as_string() and "mail.b.test" in bounce.as_string()


@pytest.mark.feature("B11")
def test_a_wrong_password_defers_mail_with_the_reason_and_the_right_one_frees_it(two: tuple[Joined, Joined]) -> None:
    a, b = two
    try:
        a.up(relayhost={"stack": B, "username": "relay@b.test", "password": "wrong"})
        a.send("ann@a.test", "joe@foreign.example", "password", login="ann@a.test")
        until(lambda: "SASL authentication failed" in a.waiting(), WITHIN, "the reason in the queue")
        assert "535" in a.waiting() and not b.has("catch-all@b.test", "password")
    finally:
        a.up()
    assert b.message("catch-all@b.test", "password")
    until(lambda: not a.waiting(), WITHIN, "an empty queue")


@pytest.mark.feature("B11")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"relayhost": {"stack": B, "host": "mail.wrong.test", "username": "relay@b.test", "password": PASSWORD}}, "hostname mismatch"),
        ({"mta": {"settings": {"main_cf": {"smtp_tls_CAfile": "/etc/ssl/certs/ca-certificates.crt"}}}}, "untrusted issuer"),
    ],
    ids=["name", "CA"],
)
def test_nothing_goes_to_a_server_that_cannot_show_who_it_is(change: dict[str, Any], reason: str, two: tuple[Joined, Joined]) -> None:
    a, b = two
    subject = f"unverified {reason}"
    try:
        a.up(**change)
        a.send("ann@a.test", "joe@foreign.example", subject, login="ann@a.test")
        until(lambda: "Server certificate not verified" in a.waiting(), WITHIN, "the reason in the queue")
        assert not b.has("catch-all@b.test", subject)
        assert reason in a.log()
    finally:
        a.up()
    assert b.message("catch-all@b.test", subject)


@pytest.mark.feature("B11", "B3")
def test_without_a_login_the_next_hop_relays_nothing(two: tuple[Joined, Joined]) -> None:
    a, b = two
    try:
        a.up(relayhost={"stack": B})
        a.send("ann@a.test", "joe@foreign.example", "no login", login="ann@a.test")
        until(lambda: "Relay access denied" in a.log(), WITHIN, "a refusal in the log")
        assert not b.has("catch-all@b.test", "no login")
    finally:
        a.up()


@pytest.mark.feature("B11")
def test_a_login_for_people_cannot_send_what_another_server_hands_in(two: tuple[Joined, Joined]) -> None:
    """The negative twin of `any_sender`."""
    _, b = two
    with pytest.raises(Refused, match="not owned by user bea@"):
        b.send("ann@a.test", "joe@foreign.example", "as another", login="bea@b.test")
    b.send("ann@a.test", "joe@foreign.example", "as another server", login="relay@b.test")
    with pytest.raises(Refused, match="not owned by user relay@"):
        b.send("bea@b.test", "joe@foreign.example", "as bea", login="relay@b.test")


# --- What joins them


@pytest.mark.feature("B11")
def test_only_the_two_mtas_meet_and_nothing_leads_outside(two: tuple[Joined, Joined]) -> None:
    a, b = two
    network = json.loads(docker("network", "inspect", f"stackctl-{A}_to-{B}"))[0]
    assert set(network["Containers"]) == {a.mta, b.mta} and network["Internal"] is True
    stores = {part["container"] for one in two for part in one.endpoints["stores"].values()}
    for store in stores:
        assert len(json.loads(docker("inspect", store))[0]["NetworkSettings"]["Networks"]) == 1
    # A store of the other stack has no name here: dovecot is one's own.
    own = docker("exec", a.mta, "getent", "hosts", "dovecot").split()[0]
    assert own in {net["IPAddress"] for net in json.loads(docker("inspect", a.endpoints["stores"]["dovecot"]["container"]))[0]["NetworkSettings"]["Networks"].values()}
    assert json.loads(docker("network", "inspect", f"stackctl-{A}_mail"))[0]["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


@pytest.mark.feature("B11", "B3")
def test_the_listener_for_stores_is_closed_to_the_other_stack(two: tuple[Joined, Joined]) -> None:
    a, b = two
    own, joined = (json.loads(docker("inspect", a.mta))[0]["NetworkSettings"]["Networks"][f"stackctl-{A}_{network}"]["IPAddress"] for network in ("mail", f"to-{B}"))
    send = ["smtp-source", "-f", "somebody@foreign.example", "-t", "ann@a.test"]
    docker("exec", a.mta, *send, f"{own}:{RELAY_PORT}")
    for container, address in ((b.mta, joined), (a.mta, joined)):  # by its own address there it is no better
        done = subprocess.run(["docker", "exec", container, *send, f"{address}:{RELAY_PORT}"], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0 and "Access denied" in done.stderr


@pytest.mark.feature("B11")
def test_no_password_is_in_image_environment_arguments_or_compose_file(two: tuple[Joined, Joined]) -> None:
    a, _ = two
    assert PASSWORD not in docker("inspect", a.mta) and PASSWORD not in docker("top", a.mta, "-eo", "pid,args")
    assert PASSWORD not in "".join(path.read_text(errors="replace") for path in state.folder(A).rglob("*") if path.is_file())
    assert docker("exec", a.mta, "stat", "-c", "%a %u", "/etc/stackctl/next-hops-logins").split() == ["600", "0"]
    assert PASSWORD in docker("exec", a.mta, "cat", "/etc/stackctl/next-hops-logins")


@pytest.mark.feature("B11")
def test_mail_waits_for_a_stack_that_is_down_and_goes_on_when_it_is_back(two: tuple[Joined, Joined]) -> None:
    a, b = two
    running.down(B)
    a.send("ann@a.test", "bea@b.test", "patience", login="ann@a.test")
    until(lambda: a.waiting(), WITHIN, "a message that waits")
    b.up()
    assert b.message("bea@b.test", "patience")
    assert a.mta in {one.id for one in inventory.containers(A) if one.running}


# --- What is refused before anything starts


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STACKCTL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def known(folder: Path, name: str, domain: str, text: str = "") -> None:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\ndomain: {domain}\n{text}", encoding="utf-8")
    state.save(state.State(name, source=str(path), endpoints={"tls_name": f"mail.{domain}"}))


def of(text: str) -> Any:
    return parse(f"name: one\ndomain: one.test\n{text}", "stack.yaml", Path())


@pytest.mark.feature("B11")
def test_another_stack_has_to_be_known_and_to_be_called_differently(memory: Path) -> None:
    with pytest.raises(UsageError, match="never up") as caught:
        peers.resolved(of("relayhost: {stack: two}"))
    assert "host: mail.other.test" in caught.value.hint
    known(memory, "two", "one.test")
    with pytest.raises(UsageError, match="both called mail"):
        peers.resolved(of("relayhost: {stack: two}"))
    known(memory, "two", "two.test")
    resolved = peers.resolved(of("relayhost: {stack: two}\nroutes: {x.test: {stack: two, port: 2525}}"))
    assert resolved.relayhost and (resolved.relayhost.destination, resolved.relayhost.security) == ("[mail.two.test]", "verify")
    assert resolved.routes["x.test"].destination == "[mail.two.test]:2525"


@pytest.mark.feature("B11")
def test_relayhosts_in_a_ring_are_refused_and_routes_back_are_not(memory: Path) -> None:
    known(memory, "two", "two.test", "relayhost: {stack: three}\n")
    known(memory, "three", "three.test", "relayhost: {stack: one}\n")
    with pytest.raises(UsageError, match="in a ring: one -> two -> three -> one"):
        peers.resolved(of("relayhost: {stack: two}"))
    known(memory, "three", "three.test", "routes: {one.test: {stack: one}}\n")
    assert peers.resolved(of("relayhost: {stack: two}"))


@pytest.mark.feature("B3", "A2")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("relayhost: {stack: one}", "is this stack itself"),
        ("relayhost: {port: 25}", "names no host"),
        ("relayhost: {host: 'smtp://x'}", "is not a host"),
        ("relayhost: {host: 192.0.2.1, tls: verify}", "the certificate of an address cannot be verified"),
        ("relayhost: {host: x.test, username: joe}", "a username and no password"),
        ("relayhost: {host: x.test, password: hunter2}", "a password and no username"),
        ("relayhost: {host: x.test, username: joe, password: hunter2, tls: may}", "would go out in clear"),
        ("relayhost: {host: x.test, username: 'a:b', password: hunter2}", "cannot be handed on"),
        ("relayhost: {host: x.test, username: joe, password: 'hunter2 '}", "ends with a space"),
        ("relayhost: {host: x.test, username: joe, password: [hunter2]}", "expected a text"),
        ("relayhost: {host: x.test, username: joe, password_file: none}", "does not exist"),
        ("relayhost: {host: x.test, ca_file: none}", "does not exist"),
        ("relayhost: {host: x.test, tls: verfy}", "is none of none, may, encrypt, verify"),
        ("routes: {x.test: {host: x.test, tls: verfy}}", "is none of none, may, encrypt, verify"),
        ("relayhost: {host: x.test, prot: 25}", "unknown key 'prot' (did you mean 'port'?)"),
        ("routes: {one.test: {host: x.test}}", "is a domain of this stack"),
        ("routes: {x.test: x.test:99999}", "is not a host"),
        ("mydestination: [one.test]", "cannot be both"),
        ("mydestination: ['a b']", "is not a domain name"),
        ("myorigin: 'a@b'", "is not a domain name"),
    ],
)
def test_a_next_hop_that_cannot_be_right_is_told_with_its_line(text: str, said: str, memory: Path) -> None:
    with pytest.raises(BadStack) as caught:
        of(text)
    assert said in caught.value.message and "stack.yaml:3: " in caught.value.message, caught.value.message
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.feature("B3")
def test_the_texts_of_a_next_hop(memory: Path) -> None:
    for text, destination in {"x.test": "x.test", "x.test:2525": "x.test:2525", "'[x.test]'": "[x.test]", "'[192.0.2.1]:587'": "[192.0.2.1]:587"}.items():
        hop = of(f"relayhost: {text}").relayhost
        assert (hop.destination, hop.security) == (destination, "may")
    assert of("relayhost: {host: x.test, username: joe, password: p}").relayhost.destination == "[x.test]:587"
    assert of("").reaches_outside is False and of("relayhost: {stack: two}").reaches_outside is False and of("relayhost: x.test").reaches_outside is True
