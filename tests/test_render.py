"""From a stack to the files of its servers: pinned octet by octet in golden/, and the rules behind them. Starts nothing.

`pytest tests/test_render.py --update-golden` writes golden/ anew; read the difference before you commit it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from stackctl import addresses, preview, render
from stackctl.errors import BadStack, UsageError
from stackctl.load import parse
from stackctl.model import Stack
from stackctl.render import Secrets, native

pytestmark = pytest.mark.feature("A2")

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
CASES = {
    "demo": "",
    "dovecot-2.3": 'stores: [{backend: dovecot, version: "2.3"}]\n',
    "mbox": "stores: [{backend: dovecot, mailbox: mbox}]\n",
    "courier-smtp": "stores: [{backend: courier, delivery: smtp}]\nusers: [{address: alice@example.test, quota: {storage: 1M, messages: 9}}]\n"
    "lists: {my-team@example.test: {owner: alice@example.test, subscribers: [alice@example.test]},\n"
    "  news@example.test: {owner: alice@example.test, post: moderated, digest: 24}}\n",
    "sqwebmail": "stores: [{backend: courier}]\nwebmail: {backend: sqwebmail}\n",
    "everything": (HERE / "good_stacks/everything.yaml").read_text(encoding="utf-8"),
    "exim-ldap": "mta: {backend: exim}\nstores: [{backend: dovecot}]\naccounts: {backend: ldap}\n",
    "exim": "mta: {backend: exim}\nstores: [{backend: dovecot}, {backend: courier}, {name: old, backend: dovecot, mailbox: mbox, delivery: mbox}]\nhost: {}\n"
    "users: [{address: alice@example.test, aliases: [al@example.test]}, {address: relay@example.test, any_sender: true}]\n"
    "aliases: {team@example.test: [alice@example.test, out@other.test]}\ndomains: [example.org]\ndomain_catch_all: {example.org: alice@example.test}\n"
    "tls: {sni: [mx.example.org], minimum_version: TLSv1.3}\nroutes: {other.test: {host: mx.other.test, tls: verify}, third.test: mx.third.test}\n"
    "relayhost: {host: relay.example.net, username: me, password: 'a^b'}\n",
    "courier-mta": "mta: {backend: courier, settings: {esmtpd: {TARPIT: 1}, bofh: {BOFHSPFHELO: off}}}\n"
    "stores: [{backend: dovecot}, {backend: courier}, {name: old-2, backend: dovecot, mailbox: mbox, delivery: mbox}]\nhost: {}\nmynetworks: [192.0.2.0/25]\n"
    "users: [{address: alice@example.test, aliases: [al@example.test]}, {address: relay@example.test, any_sender: true}]\n"
    "aliases: {team@example.test: [alice@example.test, out@other.test]}\ndomains: [example.org]\ndomain_catch_all: {example.org: alice@example.test}\n"
    "tls: {sni: [mx.example.org], minimum_version: TLSv1.3}\nroutes: {other.test: {host: mx.other.test, tls: verify}, third.test: mx.third.test}\n"
    "relayhost: {host: relay.example.net, username: me, password: 'a^b'}\n",
    "courier-mta-ldap": "mta: {backend: courier}\nstores: [{backend: courier}]\naccounts: {backend: ldap}\n",
    "sendmail-ldap": "mta: {backend: sendmail}\nstores: [{backend: dovecot}]\naccounts: {backend: ldap}\n",
    "sendmail": "mta: {backend: sendmail, settings: {sendmail_mc: {confMAX_HOP: 30, confLOG_LEVEL: 14}}}\n"
    "stores: [{backend: dovecot}, {backend: courier}, {name: old, backend: dovecot, mailbox: mbox, delivery: mbox}]\nhost: {}\nmynetworks: [192.0.2.0/25]\n"
    "users: [{address: alice@example.test, aliases: [al@example.test]}, {address: relay@example.test, any_sender: true}]\n"
    "aliases: {team@example.test: [alice@example.test, out@other.test]}\ndomains: [example.org]\ndomain_catch_all: {example.org: alice@example.test}\n"
    "system_aliases: {ops: [alice@example.test, /dev/null]}\ngreetings: {smtp: \"Ann's host\"}\ntls: {minimum_version: TLSv1.3}\n"
    "routes: {other.test: {host: mx.other.test, tls: verify}, third.test: mx.third.test, fourth.test: {host: fourth.test, mx: true, tls: verify}}\n"
    "relayhost: {host: relay.example.net, username: me, password: 'a^b'}\n",
    "relayhost": 'relayhost: "[relay.example.net]:587"\n',
    "accounts-sqlite": "accounts: {backend: sqlite}\n",
    "accounts-postgres": 'accounts: {backend: postgres}\nstores: [{backend: courier}, {backend: dovecot, version: "2.3"}]\n',
    "accounts-ldap": 'accounts: {backend: ldap}\nstores: [{backend: courier}, {backend: dovecot, version: "2.3"}]\n',
    "accounts-system": 'accounts: {backend: system}\nstores: [{backend: courier}, {backend: dovecot}, {backend: dovecot, version: "2.3"}]\n'
    "users: [{address: alice@example.test, quota: {storage: 1M, messages: 9}}]\n",
    "mechanisms": 'stores: [{backend: dovecot}, {backend: dovecot, version: "2.3"}]\n'
    "auth: {mechanisms: [PLAIN, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, DIGEST-MD5, APOP, ANONYMOUS, OTP]}\n",
    "dbox": "stores: [{backend: dovecot, mailbox: mdbox, delivery: dovecot-lda}, {name: old, backend: dovecot, version: '2.3', mailbox: sdbox}]\n"
    "auth: {mechanisms: [PLAIN, EXTERNAL, OAUTHBEARER, XOAUTH2, GSSAPI]}\ntls: {sni: [imap.example.org], prefer: client}\n",
    "no-plaintext-listeners": "tls: {plaintext_listeners: false}\n",
}


@pytest.fixture(autouse=True)
def _no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKCTL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def rendered(text: str, folder: Path) -> dict[str, str]:
    path = folder / "stack.yaml"
    path.write_text(text, encoding="utf-8")
    plan = preview.preview(path)
    return {f"{service}/{name}": one.content.decode() for service, tree in plan.files.items() for name, one in tree.items()}


def of(text: str) -> Stack:
    return parse(textwrap.dedent(text), "stack.yaml", Path())


@pytest.mark.parametrize("case", CASES)
def test_the_files_of_a_stack_are_what_they_were(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = rendered(CASES[case], tmp_path)
    place = GOLDEN / case
    if request.config.getoption("--update-golden", default=False):
        for path in [path for path in place.rglob("*") if path.is_file()]:
            path.unlink()
        for name, text in found.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
    expected = {path.relative_to(place).as_posix(): path.read_text(encoding="utf-8") for path in place.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(expected), "`--update-golden` writes the missing ones"
    for name, text in found.items():
        assert text == expected[name], f"{case}/{name}: `--update-golden`, then read the difference"


def test_golden_holds_no_case_that_is_gone() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_same_stack_gives_the_same_octets(case: str, tmp_path: Path) -> None:
    once = rendered(CASES[case], tmp_path)
    render._environment.cache_clear()
    assert rendered(CASES[case], tmp_path) == once


def test_another_stack_gives_other_octets(tmp_path: Path) -> None:
    assert rendered("message_size_limit: 1M\n", tmp_path) != rendered("", tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_shown_holds_no_secret(case: str, tmp_path: Path) -> None:
    for name, text in rendered(CASES[case], tmp_path).items():
        assert not name.partition("/")[2].startswith("tls/")
        assert "PRIVATE KEY" not in text
        assert "correct horse battery staple" not in text
        assert "$2b$" not in text.replace(preview.MASKED, ""), name


@pytest.mark.parametrize("case", CASES)
def test_files_of_secrets_are_not_for_everybody(case: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(CASES[case], encoding="utf-8")
    here = preview.preview(path).stack
    hash_, key = "$2b$04$" + "x" * 53, b"-----BEGIN PRIVATE KEY-----\n"
    lookup, session = "the-password-of-lookups", "the-key-of-sessions"
    secrets = Secrets(dict.fromkeys(render.with_passwords(here), hash_), hash_, b"certificate\n", key, b"ca\n", lookup, session)
    for service in render.services(here):
        files = render.render(here, service, secrets)
        for name, file in files.items():
            if hash_.encode() in file.content or key in file.content or lookup.encode() in file.content or session.encode() in file.content:
                assert file.mode & 0o007 == 0, f"{service.name}/{name}: {file.mode:o}"
        if not service.backend.has_tls:
            continue
        assert {"tls/cert.pem", "tls/key.pem", "tls/bundle.pem", "tls/ca.pem"} <= set(files)
        assert files["tls/bundle.pem"].content == key + b"certificate\n"
        assert files["tls/cert.pem"].content == b"certificate\n"


# --- native: settings of the user's own


BLOCK = """\
# key = what a comment says
key = value
  more of it
other = 1
section {
  key = inner
}
"""


def test_without_settings_a_block_stays_as_it_is() -> None:
    assert native(BLOCK, {}) == BLOCK


def test_an_overridden_line_is_commented_out_and_the_new_one_comes_last() -> None:
    assert native(BLOCK, {"key": "new"}).splitlines() == [
        "# key = what a comment says",
        "# key = value",
        "#   more of it",
        "other = 1",
        "section {",
        "  key = inner",
        "}",
        "",
        "# --- From stack.yaml",
        "key = new",
    ]


def test_a_new_setting_leaves_the_block_alone() -> None:
    assert native(BLOCK, {"third": 3}) == BLOCK + "\n# --- From stack.yaml\nthird = 3\n"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("text", "key = text"),
        (7, "key = 7"),
        (2.5, "key = 2.5"),
        (True, "key = yes"),
        (False, "key = no"),
        (["a", "b", True, 1], "key = a b yes 1"),
        ([], "key ="),
        (None, "key ="),
        ("", "key ="),
    ],
)
def test_how_a_value_is_written(value: object, line: str) -> None:
    assert native("", {"key": value}).splitlines()[-1] == line


def test_a_mapping_becomes_a_section() -> None:
    settings = {"service imap-login": {"process_min_avail": 2, "inet_listener imaps": {"ssl": True}, "list": ["a", "b"]}}
    assert native("", settings).partition("# --- From stack.yaml\n")[2] == textwrap.dedent(
        """\
        service imap-login {
          process_min_avail = 2
          inet_listener imaps {
            ssl = yes
          }
          list = a b
        }
        """
    )


def test_an_override_reaches_the_rendered_file_and_the_default_does_not_count(tmp_path: Path) -> None:
    lines = rendered("mta: {settings: {main_cf: {recipient_delimiter: '-', mynetworks: [127.0.0.1, 192.0.2.1]}}}\n", tmp_path)["mta/main.cf"].splitlines()
    assert "# recipient_delimiter = +" in lines
    assert "recipient_delimiter = +" not in lines
    assert lines[-2:] == ["recipient_delimiter = -", "mynetworks = 127.0.0.1 192.0.2.1"]


# --- A control character would start a setting that nobody wrote.

TEXTS = [
    'mta: {settings: {main_cf: {smtpd_banner: "a%sb"}}}',
    'mta: {settings: {main_cf: {"a%sb": 1}}}',
    'mta: {settings: {main_cf: {key: ["a", "a%sb"]}}}',
    'stores: [{backend: dovecot, settings: {dovecot_conf: {"service x": {"inner": {"deep": "a%sb"}}}}}]',
    'stores: [{backend: dovecot, settings: {dovecot_conf: {"service x%s": {"inner": 1}}}}]',
    'stores: [{backend: courier, settings: {imapd: {"OUTBOX": "a%sb"}}}]',
    'stores: [{backend: dovecot, name: "a%sb"}]',
    'users: [{address: "alice%s@example.test"}]',
    'users: [{address: alice@example.test, aliases: ["a%sb@example.test"]}]',
    'users: [{address: alice@example.test, password: "a%sb"}]',
    'aliases: {"a%sb@example.test": [alice@example.test]}',
    'aliases: {team@example.test: ["a%sb@example.test"]}',
    'catch_all: "a%sb@example.test"',
    'relayhost: "a%sb"',
    'mynetworks: ["127.0.0.0/8%s"]',
    'domain: "example%s.test"',
    'name: "de%smo"',
    'tls: {ciphers: "a%sb"}',
    'tls: {names: ["a%sb.example.test"]}',
    'ports: {address: "127.0.0.1%s"}',
    'debian: {mirror: "http://mirror.example/%s"}',
]


@pytest.mark.parametrize("escape", ["\\n", "\\r", "\\0", "\\t", "\\x7f", "\\e"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_control_character_reaches_no_file(text: str, escape: str) -> None:
    with pytest.raises(BadStack) as caught:
        of(text % escape)
    assert caught.value.problems[0].where.startswith("stack.yaml:1")


# --- Who gets what, and who may send as whom


def test_an_address_is_a_mailbox_in_every_store() -> None:
    here = of("")
    found = render.recipients(here, render.routes(here))
    assert found["alice@example.test"] == ["alice@example.test.dovecot.store.internal", "alice@example.test.courier.store.internal"]
    assert "somebody@example.test" not in found


ALIASES = of(
    """\
    domains: [example.org]
    stores: [{backend: dovecot, name: s}]
    users:
      - {address: alice@example.test, aliases: [a@example.org]}
      - {address: bob@example.test}
      - {address: carol@example.org}
    aliases:
      team@example.test: [alice@example.test, bob@example.test, alice@example.test]
      all@example.test: [team@example.test, carol@example.org, someone@elsewhere.example]
      chief@example.test: [a@example.org]
      scratch@example.test: [anything@inbox.example.test]
      away@example.test: [someone@elsewhere.example]
      abuse@example.org: [carol@example.org]
    """
)


def box(*addresses: str) -> list[str]:
    return [f"{address}.s.store.internal" for address in addresses]


@pytest.mark.parametrize(
    ("address", "mailboxes"),
    [
        ("alice@example.test", box("alice@example.test")),
        ("a@example.org", box("alice@example.test")),
        ("team@example.test", box("alice@example.test", "bob@example.test")),
        ("all@example.test", [*box("alice@example.test", "bob@example.test", "carol@example.org"), "someone@elsewhere.example"]),
        ("chief@example.test", box("alice@example.test")),
        ("scratch@example.test", box("anything@inbox.example.test")),
        ("away@example.test", ["someone@elsewhere.example"]),
        ("postmaster@example.test", ["postmaster@mail.example.test"]),
        ("postmaster@example.org", ["postmaster@mail.example.test"]),
        ("postmaster@inbox.example.test", ["postmaster@mail.example.test"]),
        ("root@example.org", ["root@mail.example.test"]),
        ("abuse@example.test", box("catch-all@example.test")),
        ("abuse@example.org", box("carol@example.org")),
        ("catch-all@example.test", box("catch-all@example.test")),
    ],
)
def test_what_an_address_expands_to(address: str, mailboxes: list[str]) -> None:
    assert render.recipients(ALIASES, render.routes(ALIASES))[address] == mailboxes


SYSTEM = of(
    """\
    users: [{address: alice@example.test}, {address: root@example.test}]
    domains: [example.org]
    aliases: {staff@example.test: [ops@example.test]}
    system_aliases:
      ops: [alice@example.test, night]
      night: ['|/bin/cat >"/tmp/a\\b"', /dev/null]
    domain_catch_all: {example.org: staff@example.test}
    stores: [{backend: dovecot, name: s}]
    """
)


def test_a_system_alias_is_known_in_every_strict_domain_unless_it_is_somebody_there() -> None:
    found = render.recipients(SYSTEM, render.routes(SYSTEM))
    assert found["ops@example.test"] == found["ops@example.org"] == found["staff@example.test"] == found["@example.org"] == ["ops@mail.example.test"]
    assert found["root@example.test"] == box("root@example.test") and found["root@example.org"] == ["root@mail.example.test"]
    assert "ops@inbox.example.test" not in found and "@example.test" not in found


def test_system_aliases_are_written_so_that_each_stays_one_line() -> None:
    lines = render_of(SYSTEM)["aliases"].splitlines()
    assert "ops: alice@example.test, night@mail.example.test" in lines
    assert r'night: "|/bin/cat >\"/tmp/a\\b\"", /dev/null' in lines
    assert "mailer-daemon: postmaster@mail.example.test" in lines and "root: catch-all@example.test" in lines


def render_of(stack: Stack) -> dict[str, str]:
    """The MTA's files."""
    secrets = Secrets(dict.fromkeys(render.mailbox_addresses(stack), "h"), "h", b"", b"", b"")
    return {path: one.content.decode() for path, one in render.render(stack, render.services(stack)[0], secrets).items()}


def test_who_is_reached_through_every_kind_of_alias() -> None:
    assert addresses.people(SYSTEM, "staff@example.test") == ("alice@example.test",)
    assert addresses.people(SYSTEM, "postmaster@example.org") == ("catch-all@example.test",)
    assert addresses.people(SYSTEM, "nobody@example.test") == ()


def test_a_ring_through_both_kinds_of_alias_is_seen() -> None:
    addresses.refuse_ring(SYSTEM)
    ring = SYSTEM.model_copy(update={"system_aliases": {**SYSTEM.system_aliases, "night": ("staff@example.test",)}})
    with pytest.raises(UsageError, match=r"night -> staff@example\.test -> ops -> night"):
        addresses.refuse_ring(ring)


def test_a_postmaster_who_is_a_user_keeps_his_mail() -> None:
    here = of("users: [{address: postmaster@example.test}]\nstores: [{backend: dovecot, name: s}]\n")
    found = render.recipients(here, render.routes(here))
    assert found["postmaster@example.test"] == box("postmaster@example.test")
    assert found["abuse@example.test"] == box("catch-all@example.test")


def test_who_may_send_as_whom() -> None:
    assert render.senders(ALIASES) == {
        "alice@example.test": ["alice@example.test"],
        "bob@example.test": ["bob@example.test"],
        "carol@example.org": ["carol@example.org"],
        "catch-all@example.test": ["catch-all@example.test"],
        "a@example.org": ["alice@example.test"],
        "team@example.test": ["alice@example.test", "bob@example.test"],
        "all@example.test": ["alice@example.test", "bob@example.test", "carol@example.org"],
        "chief@example.test": ["alice@example.test"],
        "abuse@example.org": ["carol@example.org"],
    }


QUOTA = "users: [{address: alice@example.test, quota: 1M}]\n"


@pytest.mark.feature("B8", "C5")
@pytest.mark.parametrize(
    "text",
    [
        "stores: [{backend: dovecot}]\n" + QUOTA,
        "stores: [{backend: courier, delivery: smtp}]\n" + QUOTA,
        "stores: [{backend: dovecot, delivery: maildir}]\n",
        "stores: [{backend: courier}]\nmailbox_size_limit: 1M\n",
        "stores: [{backend: courier}]\nmailbox_size_limit: 1M\naccounts: {backend: sqlite}\n",
        "stores: [{backend: dovecot, delivery: mbox, mailbox: mbox}, {name: b, backend: dovecot, mailbox: mdbox, delivery: dovecot-lda}]\n" + QUOTA,
        "stores: [{backend: dovecot, delivery: procmail, mailbox: mbox}, {name: b, backend: dovecot, delivery: maildrop, mailbox: mbox}]\n" + QUOTA,
    ],
)
def test_every_way_keeps_to_quotas(text: str) -> None:
    stack = of(text)
    assert not [one for service in render.services(stack) if (one := render.passed_quotas(stack, service))]
    for service in (one for one in render.services(stack) if one.role == "store"):
        assert ("quota-enforced" in service.provides) == bool(stack.mailbox_size_limit or stack.users)


@pytest.mark.feature("B8", "C5")
def test_a_quota_that_a_delivery_does_not_keep_to_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "keeps_quotas", lambda *_: False)
    stack = of("stores: [{backend: dovecot, delivery: procmail, mailbox: mbox}]\n" + QUOTA)
    (store,) = (one for one in render.services(stack) if one.role == "store")
    assert render.passed_quotas(stack, store) == "dovecot shows a quota, but mail that comes by procmail is let in over it; `delivery: lmtp` keeps to it"
    assert "quota-enforced" not in store.provides


@pytest.mark.feature("C5")
def test_what_one_way_needs_no_other_store_gets() -> None:
    plain, second = render.services(of("stores: [{backend: courier}, {name: second, backend: courier, delivery: smtp}]\n"))[1:]
    assert set(second.container.capabilities) - set(plain.container.capabilities) == {"CHOWN"}
    assert set(second.container.volumes) - set(plain.container.volumes) == {"queue"}
    assert plain.container == plain.backend.container
