"""The pytest plugin: fixtures that give a real mail stack and mailboxes, and what a failed test's report says of its mail.

A test that uses none of its fixtures costs nothing: no engine is asked, and nothing heavy is loaded before a fixture is used.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stackctl import __version__
from stackctl.errors import EngineError, StackctlError
from stackctl.testing import settings
from stackctl.testing.run import Run

if TYPE_CHECKING:
    from stackctl.testing.aio import AsyncMailbox
    from stackctl.testing.mailbox import Mailbox, MailboxFactory
    from stackctl.testing.mailstack import MailStack
    from stackctl.testing.smtpfaults import SmtpFaults

_MARKER = "mail_engines"
_TIMEOUT = "mail_timeout"
_WORKER = "stackctl_used"  # the key of xdist's workerinput: the folder in which workers note the stacks that they used
_RUN = pytest.StashKey[Run]()
_SINCE = pytest.StashKey[str]()
_BOXES = pytest.StashKey[list["Mailbox"]]()
_FAILED = pytest.StashKey[bool]()


# --- The run


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    settings.declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Reads the settings: a wrong one ends the run before any test."""
    config.addinivalue_line("markers", f"{_MARKER}(*names): run the test on each of these mail engines, on all of them without names")
    config.addinivalue_line("markers", f"{_TIMEOUT}(seconds): how long waits of the test's mailboxes last unless they are told otherwise")
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    used = (given or {}).get(_WORKER)
    config.stash[_RUN] = Run(settings.read(config), Path(used) if used else None, worker=given is not None)


def pytest_report_header(config: pytest.Config) -> str:
    """A line of what is meant."""
    return f"stackctl {__version__}: {config.stash[_RUN].settings}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a worker of pytest-xdist where to note the stacks that it uses."""
    node.workerinput[_WORKER] = str(node.config.stash[_RUN].folder())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Lets go of the stacks; in a worker that is all, the main process ends them."""
    session.config.stash[_RUN].release()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Takes down what the run brought up, once its workers are gone."""
    run = config.stash.get(_RUN, None)
    if run is None or run.worker or run.used is None:
        return
    run.release()
    try:
        run.end()
    except StackctlError as why:
        config.get_terminal_writer().line(f"stackctl: a stack of the tests could not be taken down: {_told(why)}", red=True)
    finally:
        shutil.rmtree(run.used, ignore_errors=True)


def _told(why: StackctlError) -> str:
    return f"{why.message}\n  next: {why.hint}" if why.hint else why.message


# --- Fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the marker becomes one for each engine."""
    if marker := metafunc.definition.get_closest_marker(_MARKER):
        from stackctl.testing import engines

        try:
            names = engines.names(tuple(map(str, marker.args)))
        except StackctlError as why:
            pytest.fail(_told(why), pytrace=False)
        metafunc.parametrize("mail_stack", names, indirect=True)


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    return config.stash[_RUN].settings.scope


@pytest.fixture(scope=_scope)
def mail_stack(request: pytest.FixtureRequest) -> Iterator[MailStack]:
    """A running mail stack: where everything is. It is brought up when a test needs it first, unless it is up; `--stackctl-scope` says how long it lasts."""
    run = request.config.stash[_RUN]
    found = _stack(run, getattr(request, "param", None))
    if isinstance(found, StackctlError):
        if isinstance(found, EngineError) and run.settings.unreachable == "skip":
            pytest.skip(_told(found))
        pytest.fail(_told(found), pytrace=False)
    yield found
    if run.settings.scope != "session":
        run.release()
        if not run.worker:
            run.end()


def _stack(run: Run, engine: str | None) -> MailStack | StackctlError:
    """The stack of the settings; for an engine that it has no store of, one beside it with a store of every engine. Or why there is none."""
    from stackctl.testing.mailstack import MailStack

    chosen = run.settings
    try:
        known, store = run.stack(chosen.file, chosen.name), chosen.store
        if engine:
            from stackctl.testing import engines, lease

            if not (store := engines.store_of(known, engine)):
                name = f"{known.name}-engines"
                known = run.stack(lease.write(name, engines.stack_file()), name)
                store = engines.store_of(known, engine)
        return MailStack(known, store, chosen.timeout)
    except StackctlError as why:
        return why


@pytest.fixture
def mailbox_factory(request: pytest.FixtureRequest, mail_stack: MailStack) -> Iterator[MailboxFactory]:
    """Makes mailboxes that no other test has, in the disposable domain; `mailbox_factory("shop")`: a word for the address.

    They are emptied after a test that passed, where the stack stays.
    """
    boxes: list[Mailbox] = request.node.stash.setdefault(_BOXES, [])
    timeout = _timeout(request.node)

    def make(label: str = "") -> Mailbox:
        box = mail_stack.fresh(label or request.node.name)
        box.timeout = box.timeout if timeout is None else timeout
        boxes.append(box)
        return box

    yield make
    # Where the stack goes with the run, so does the mail: to empty a mailbox takes a login for each store.
    empty = request.config.stash[_RUN].stays(mail_stack.name) and not request.node.stash.get(_FAILED, False)
    for box in boxes:
        if empty:
            with contextlib.suppress(StackctlError):  # the test may have stopped a server, and nobody else looks into this mailbox
                box.delete_all()
        box.close()


def _timeout(test: pytest.Item) -> float | None:
    """What the test's marker says, None without one; a wrong one fails the test."""
    marker = test.get_closest_marker(_TIMEOUT)
    if marker is None:
        return None
    match marker.args:
        case [int() | float() as seconds] if 0 < seconds < float("inf") and not marker.kwargs:
            return float(seconds)
    pytest.fail(f"the marker {_TIMEOUT} takes one number of seconds, such as {_TIMEOUT}(60)", pytrace=False)


@pytest.fixture
def mailbox(mailbox_factory: MailboxFactory) -> Mailbox:
    """A mailbox that no other test has, in the disposable domain."""
    return mailbox_factory()


@pytest.fixture
def async_mailbox(mailbox: Mailbox) -> AsyncMailbox:
    """`mailbox` for asynchronous tests."""
    from stackctl.testing.aio import AsyncMailbox

    return AsyncMailbox(mailbox)


@pytest.fixture
def smtp_faults(mail_stack: MailStack) -> Iterator[SmtpFaults]:
    """Lets mail fail on the real servers, until the end of the test."""
    from stackctl.testing.smtpfaults import SmtpFaults

    made = SmtpFaults(mail_stack.known, mail_stack.domain)
    yield made
    made.clear()


# --- The report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes when the test began, in the form of the logs' times."""
    item.stash[_SINCE] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Adds to a failed test's report what its mailboxes hold and what became of mail to them."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and report.when != "teardown" and (boxes := item.stash.get(_BOXES, None)):
        from stackctl.testing import evidence

        item.stash[_FAILED] = True
        report.sections += [(f"mail of {box.address}", evidence.section(box, item.stash[_SINCE])) for box in boxes]
    return report  # type: ignore[return-value]
