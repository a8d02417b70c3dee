"""The classes for testcontainers: their example runs, their ports are real, and nothing is left."""

from __future__ import annotations

import doctest
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import docker, left

from stackctl import state, testcontainers
from stackctl.clients.failure import AuthRefused
from stackctl.clients.imap import Imap
from stackctl.clients.where import Where
from stackctl.errors import BadStack, TimedOut, UsageError
from stackctl.labels import LABEL
from stackctl.testcontainers import CourierContainer, ImapWaitStrategy, MailStack, Pop3WaitStrategy, PostfixContainer

pytestmark = [pytest.mark.e2e, pytest.mark.feature("A6")]
ALICE = "alice@example.test"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """State and CA of its own; nothing is left of what was made."""
    monkeypatch.setenv("STACKCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CAROOT", str(tmp_path / "ca"))
    yield
    assert state.names() == ()


def test_the_example_runs() -> None:
    failed, tried = doctest.testmod(testcontainers)
    assert (failed, tried) == (0, 3)


def test_a_container_of_one_server() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    abandoned = f"tc-{ended.pid}-1"
    state.save(state.State(abandoned))
    made = CourierContainer(limits={"auth_failure_delay": 0}).with_user(ALICE, "secret").waiting_for(ImapWaitStrategy(143).with_startup_timeout(30))
    with made as courier:
        assert abandoned not in state.names(), "what a killed run left goes with the next start"
        [host, port] = courier.endpoints["stores"]["store"]["imaps"]
        assert (courier.get_container_host_ip(), courier.get_exposed_port(993)) == (host, port)
        assert courier.get_exposed_port("mta.submission") == courier.endpoints["mta"]["submission"][1]
        for closed in (25, 4190, "nothing"):
            with pytest.raises(UsageError, match="open"):
                courier.get_exposed_port(closed)
        assert courier.status == "running"
        assert any(b"LOGIN" in part for part in courier.get_logs())
        label = docker("inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', courier.get_wrapped_container().id)
        assert label.strip() == courier.name
        where = Where.of(courier.endpoints, "store", "imaps")
        with Imap(where) as imap:
            imap.login(ALICE, courier.password(ALICE))
            imap.append(b"Subject: kept\r\n\r\nkept\r\n")
            courier.snapshot("one")
            courier.reset()
            imap.select("INBOX")
            assert imap.uids() == []
        courier.restore("one")
        assert courier.wait_for(ALICE, "kept").subject == "kept"
        with Imap(where) as imap, pytest.raises(AuthRefused):
            imap.login(ALICE, "wrong")
        with pytest.raises(TimedOut, match=r"pop3 at port 143: not ready after .* greeted with"):
            Pop3WaitStrategy(143).with_startup_timeout(1).wait_until_ready(courier)
        name = courier.name
    assert left(name) == []


def test_what_is_not_there() -> None:
    with pytest.raises(UsageError, match="was not started"):
        PostfixContainer().get_exposed_port(25)
    with pytest.raises(AttributeError):
        testcontainers.NoSuchContainer  # noqa: B018
    with pytest.raises(BadStack, match="no-such-server"):
        MailStack().with_store("no-such-server").start()
