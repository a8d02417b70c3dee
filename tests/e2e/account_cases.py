"""What holds for accounts wherever they are, and in any directory: its own tools, its outage and its return. Each way of keeping them has a file of tests of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import bcrypt
import pytest
import yaml
from conftest import NAME, stack_file
from program import Program, docker, until

from stackctl import report, scenarios
from stackctl.clients.failure import AuthRefused
from stackctl.clients.imap import Imap
from stackctl.clients.pop3 import Pop3
from stackctl.clients.smtp import Refused, Smtp
from stackctl.clients.where import Where
from stackctl.errors import StackctlError, TimedOut
from stackctl.labels import LABEL, project_name

ALICE, BOB, CAROL = "alice@example.test", "bob@example.test", "carol@example.test"
CHOSEN = (
    r"^(a_login_with_the_right_password_may_read|mail_to_a_user_arrives_in_the_inbox|mail_to_an_unknown_user_is_refused_at_rcpt|"
    r"a_login_with_a_wrong_password.*|.*unknown_user.*|.*sender.*)\[(imaps|submission|smtp|[a-z0-9-]+/(imaps|pop3s)|(submission|smtp)/.*|[a-z0-9-]+)?\]$"
)
WARNING = "Your mailbox is 80 % full"
UNKNOWN = r"550 5\.1\.1"
HASH = bcrypt.hashpw(b"by hand", bcrypt.gensalt(4)).decode()


@contextmanager
def brought_up(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A stack of every store whose accounts are kept in this way."""
    name = f"{NAME}-{kind}"
    program = Program.below(tmp_path_factory.mktemp(kind), name, STACKCTL_NAME=name)
    content = yaml.safe_load(stack_file(name))
    users = [{"address": ALICE, "aliases": ["al@example.test"]}, {"address": BOB, "quota": "1M", "filters": {"sieve": "bob.sieve"}}]
    program.write('require "fileinto"; if header :contains "subject" "filed" { fileinto "Trash"; }\n', "bob.sieve")
    program.write(yaml.safe_dump({**content, "accounts": {"backend": kind}, "users": users}))
    with program.up():
        yield program


def container(program: Program) -> str:
    return f"{project_name(program.name)}-directory-1"


def typed(program: Program, argv: tuple[str, ...], text: str, fails: bool = False) -> str:
    """What a person does in the directory's container; what is said of faults."""
    done = subprocess.run(["docker", "exec", "-i", container(program), *argv], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr


def deliver(found: Any, to: str, subject: str) -> None:
    with Smtp(Where.of(found, "mta", "smtp")) as smtp:
        smtp.send("somebody@elsewhere.test", [to], f"From: somebody@elsewhere.test\r\nSubject: {subject}\r\n\r\n.\r\n".encode())


def login(found: Any, service: str, who: str, password: str) -> None:
    if service == "mta":
        with Smtp(Where.of(found, "mta", "submission")) as smtp:
            smtp.login(who, password)
    else:
        with Imap(Where.of(found, service, "imaps")) as imap:
            imap.login(who, password)


def subjects(found: Any, store: str, who: str, password: str) -> list[str]:
    """The subjects of all messages of an INBOX, by POP3."""
    with Pop3(Where.of(found, store, "pop3s")) as pop3:
        pop3.login(who, password)
        heads = [pop3.retr(number).partition(b"\r\n\r\n")[0].decode() for number in range(1, pop3.stat()[0] + 1)]
    return [line.removeprefix("Subject: ") for head in heads for line in head.splitlines() if line.startswith("Subject: ")]


def has(found: Any, store: str, who: str, subject: str) -> bool:
    return subject in subjects(found, store, who, password_of(found, who))


def works(call: Callable[..., object], *arguments: object) -> bool:
    """Whether a call raises nothing."""
    try:
        call(*arguments)
    except (StackctlError, OSError):
        return False
    return True


def holds(found: Any, store: str, who: str, password: str, count: int) -> bool:
    """Whether an INBOX can be opened and holds so many messages."""
    try:
        return len(subjects(found, store, who, password)) == count
    except (AuthRefused, TimedOut):  # each of a server's login processes may notice by itself that the directory is back
        return False


def everywhere(found: Any) -> list[str]:
    return ["mta", *found["stores"]]


def refused(found: Any, *logins: tuple[str, str, str]) -> list[str]:
    """No service takes these logins: service, name, password. All are asked at once, for each answers after seconds; what they say."""

    def one(asked: tuple[str, str, str]) -> str:
        with pytest.raises(AuthRefused) as caught:
            login(found, *asked)
        return str(caught.value)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, logins))


def password_of(found: Any, who: str) -> Any:
    return next(account["password"] for account in found["accounts"] if account["address"] == who)


@pytest.mark.e2e
@pytest.mark.feature("D7")
class Anywhere:
    """What holds wherever accounts are."""

    @pytest.fixture
    def found(self, kept: Program) -> Any:
        return kept("endpoints", "--json", "--secrets").json

    def test_the_scenarios_of_accounts_pass(self, found: Any) -> None:
        outcomes = scenarios.run(found, only=CHOSEN, jobs=8)
        assert len(outcomes) > 12
        failed = [outcome for outcome in outcomes if outcome.verdict != "passed"]
        assert not failed, report.failure(failed[0])

    def test_a_quota_counts_in_every_store(self, kept: Program, found: Any) -> None:
        password = password_of(found, BOB)
        for store in found["stores"]:
            with Imap(Where.of(found, store, "imaps")) as imap:
                imap.login(BOB, password)
                said = " ".join(str(part) for part in imap.library.get_quota_root("INBOX"))
            assert "1024" in said, f"{store}: {said}"

    def test_a_sieve_script_of_stack_yaml_runs(self, kept: Program, found: Any) -> None:
        password = password_of(found, BOB)
        deliver(found, BOB, "filed away")
        deliver(found, BOB, "not so")
        for store in [name for name, part in found["stores"].items() if "sieve" in part["provides"]]:
            until(partial(holds, found, store, BOB, password, 1), 20, "one of the two is in the INBOX")
            with Imap(Where.of(found, store, "imaps")) as imap:
                imap.login(BOB, password)
                assert imap.select("Trash")["EXISTS"] == 1

    def test_who_has_a_limit_is_warned_and_nobody_else(self, kept: Program, found: Any) -> None:
        counting = [name for name, part in found["stores"].items() if "quota-warning" in part["provides"]]
        for who in (BOB, ALICE):
            with Smtp(Where.of(found, "mta", "smtp")) as smtp:
                smtp.send("somebody@elsewhere.test", [who], b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 12_500)  # 900,000 octets of 1 MiB
        for store in counting:
            until(partial(has, found, store, BOB, WARNING), 20, f"the warning in {store}")
            until(partial(has, found, store, ALICE, "large"), 20, f"the message in {store}")
            assert not has(found, store, ALICE, WARNING)


class Accounts(Anywhere):
    """`adds` and `removes` are what a person types there: the program, and its input."""

    adds: ClassVar[tuple[tuple[str, ...], str]]
    removes: ClassVar[tuple[tuple[str, ...], str]]

    def add(self, program: Program) -> None:
        typed(program, self.adds[0], self.adds[1].format(CAROL, HASH))

    def remove(self, program: Program) -> None:
        typed(program, self.removes[0], self.removes[1].format(CAROL))

    def test_who_is_added_by_the_directorys_own_tool_receives_and_logs_in_at_once(self, kept: Program, found: Any) -> None:
        with pytest.raises(Refused, match=UNKNOWN):
            deliver(found, CAROL, "too early")
        self.add(kept)
        deliver(found, CAROL, "welcome")
        for service in everywhere(found):
            login(found, service, CAROL, "by hand")
        for store in found["stores"]:
            until(partial(holds, found, store, CAROL, "by hand", 1), 20, "one message and no other")
        with Smtp(Where.of(found, "mta", "submission")) as smtp:
            smtp.login(CAROL, "by hand")
            smtp.send(CAROL, [ALICE], b"Subject: mine\r\n\r\n.\r\n")
            with pytest.raises(Refused, match="553"):
                smtp.send(BOB, [ALICE], b"Subject: not mine\r\n\r\n.\r\n")
        assert {"address": CAROL, "added_live": False, "from": "directory"} in kept("user", "list", "--json").json

        self.remove(kept)
        with pytest.raises(Refused, match=UNKNOWN):
            deliver(found, CAROL, "too late")
        refused(found, *((service, CAROL, "by hand") for service in everywhere(found)))
        assert CAROL not in kept("user", "list").out

    def test_user_commands_change_the_directory(self, kept: Program, found: Any) -> None:
        dave = "dave#'s@example.test"  # characters that mean something to SQL, LDAP and shells
        kept("user", "add", dave, "--password-stdin", "--quota", "5M", stdin=b"first one\n")
        for service in everywhere(found):
            login(found, service, dave, "first one")
        deliver(found, dave, "hello")
        assert "already" in kept("user", "add", dave, "--generate", code=2).err
        kept("user", "passwd", dave, "--password-stdin", stdin=b"second one\n")
        assert {"address": dave, "added_live": True} in kept("user", "list", "--json").json

        self.add(kept)
        assert "already" in kept("user", "add", CAROL, "--generate", code=2).err
        kept("user", "passwd", CAROL, "--password-stdin", stdin=b"by command\n")
        kept("up")  # takes away nobody whom it did not bring
        for service in everywhere(found):
            login(found, service, dave, "second one")
            login(found, service, CAROL, "by command")

        kept("user", "delete", CAROL)
        refused(found, ("mta", CAROL, "by command"), ("mta", dave, "first one"))
        kept("user", "delete", dave)
        for who in (CAROL, dave):
            with pytest.raises(Refused, match=UNKNOWN):
                deliver(found, who, "gone")
            assert "is no user" in kept("user", "delete", who, code=2).err

    @pytest.mark.feature("A6")
    def test_a_reset_of_everything_takes_away_who_was_added_by_hand(self, kept: Program, found: Any) -> None:
        self.add(kept)
        kept("reset", "accounts")
        assert CAROL in kept("user", "list").out, "what stackctl did not put in is not its own to take, short of everything"
        kept("reset", "everything")
        assert CAROL not in kept("user", "list").out
        refused(found, ("mta", CAROL, "by hand"))
        for service in everywhere(found):
            login(found, service, ALICE, password_of(found, ALICE))

    def test_no_secret_of_the_lookup_leaves_its_files(self, kept: Program) -> None:
        state = (kept.state / "state.json").read_text()
        secret = yaml.safe_load(state)["directory"]
        assert len(secret) == 20
        assert (kept.state / "state.json").stat().st_mode & 0o777 == 0o600
        assert secret not in (kept.state / "compose.yaml").read_text()
        for row in docker("ps", "-q", "--filter", f"label={LABEL}={kept.name}").split():
            assert secret not in docker("inspect", row) and secret not in docker("top", row) and secret not in docker("logs", row)
            worldly = docker("exec", "-u", "65534", row, "sh", "-c", "grep -rl '' /etc/stackctl 2>/dev/null | xargs -r cat 2>/dev/null || true")
            assert secret not in worldly
        assert secret not in kept("render").out


class Table:
    """What holds for a directory that is a table."""

    adds: ClassVar[tuple[tuple[str, ...], str]]

    def test_what_is_no_account_is_refused_by_the_directory(self, kept: Program) -> None:
        row = "INSERT INTO accounts (address, password) VALUES ('{0}', '{1}');"
        for address, hash_ in (("Carol@example.test", HASH), ("..@example.test", HASH), ("nobody", HASH), (CAROL, "in clear")):
            said = typed(kept, self.adds[0], row.format(address, hash_), fails=True)
            assert "constraint" in said, (address, said)
        assert "in clear" not in docker("logs", container(kept))


class Served:
    """What holds for a directory that is a server."""

    def test_a_directory_that_is_down_delays_and_loses_nothing(self, kept: Program, found: Any) -> None:
        """Mail is put off with 4xx, logins fail for the time being; when it is back, all of it works again by itself."""
        password = password_of(found, ALICE)
        asking = next(name for name, part in found["stores"].items() if "sieve" in part["provides"])  # is asked at each delivery
        before = {store: len(subjects(found, store, ALICE, password)) for store in found["stores"]}
        docker("pause", found["stores"][asking]["container"])
        try:
            deliver(found, ALICE, "accepted before")
            docker("stop", "--time", "5", container(kept))
        finally:
            docker("unpause", found["stores"][asking]["container"])
        try:
            for who in (ALICE, "nobody@example.test", "al@example.test"):
                with pytest.raises(Refused, match=r"451 4\.3\.0"):
                    deliver(found, who, "down")
            deliver(found, "anything@inbox.example.test", "needs no directory")
            of_store, of_mta = refused(found, (asking, ALICE, password), ("mta", ALICE, password))
            assert "UNAVAILABLE" in of_store and "454 4.7.0" in of_mta
            assert ALICE in [to["address"] for row in kept("queue", "list", "--json").json for to in row["recipients"]]
        finally:
            docker("start", container(kept))
        until(partial(works, deliver, found, "al@example.test", "back"), 30, "mail is taken again")
        with ThreadPoolExecutor() as pool:
            submission = pool.submit(until, partial(works, login, found, "mta", ALICE, password), 30, "the submission port takes logins again")
            list(pool.map(lambda store: until(partial(holds, found, store, ALICE, password, before[store] + 2), 90, "each message that was taken, once"), before))
            submission.result()
