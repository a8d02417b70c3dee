"""Bad lines on purpose: what clients meet on their way to one listener of a running server. It changes no server and none of its files.

A container in the server's network namespace carries the connections while it is wanted (images/bad-line); else there is nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from stackctl import engine, images, inventory, running, state
from stackctl.backends import all_backends, bad_line
from stackctl.clients.where import open_listeners
from stackctl.errors import EngineError, UsageError
from stackctl.labels import LINE
from stackctl.model import Debian

_READY = "line: ready"
_READY_WITHIN = 15.0  # seconds
_PAUSE = 0.02
_LONGEST = 300.0  # seconds of latency: no client waits for longer (RFC 5321 4.5.3.2)


@dataclass(frozen=True)
class Line:
    """How connections to a listener go, `name` being its service and its own name with a dot between.

    `latency`: seconds by which all that the server says is late. `bandwidth`: octets a second, each way. `drop_after`: octets, both ways together,
    after which a connection ends. `no_starttls`: the offer of TLS is masked in what the server says. `hang`: it is accepted, and nothing ever comes.
    `refuse`: none is accepted.
    """

    name: str
    latency: float = 0.0
    bandwidth: int | None = None
    drop_after: int | None = None
    no_starttls: bool = False
    hang: bool = False
    refuse: bool = False

    @property
    def options(self) -> list[str]:
        """The same for the program that does it."""
        numbers = {"latency": self.latency, "bandwidth": self.bandwidth, "drop-after": self.drop_after}
        return [f"--{name}={value:g}" for name, value in numbers.items() if value] + [
            f"--{name.replace('_', '-')}" for name in ("no_starttls", "hang", "refuse") if getattr(self, name)
        ]

    def __str__(self) -> str:
        words = {
            "%g s late": self.latency,
            "%d octets a second": self.bandwidth,
            "ends after %d octets": self.drop_after,
            "STARTTLS not offered": self.no_starttls,
            "accepted, and then nothing": self.hang,
            "refused": self.refuse,
        }
        return ", ".join(text % value if "%" in text else text for text, value in words.items() if value)


def listed(known: state.State) -> tuple[Line, ...]:
    """The bad lines of a stack, in the order in which they were set."""
    return tuple(Line(**one) for one in known.lines)


def put(known: state.State, line: Line, debian: Debian, report: images.Report = lambda _: None) -> None:
    """Makes new connections to a listener go so, in place of what was set for it; those under way stay as they are.

    `debian` and `report` are for the image, which is built where it is missing. Raises UsageError for what cannot be, CheckFailed where the server
    does not run, EngineError.
    """
    _check(line)
    service, port = _place(known, line.name)
    running.require(known, [service])
    backend = bad_line()
    image = images.build([backend], debian, report)[backend.name]
    with state.lock(known.name):
        known.__dict__.update(vars(state.load(known.name)))
        _end(known, lambda one: one == line.name)
        labels, allowed = {LINE: line.name}, backend.container.capabilities
        made = engine.beside(known.name, known.containers[service], image, [str(port), *line.options], labels, allowed)
        try:
            _await(made)
        except BaseException:
            engine.discard(made)
            raise
        known.lines.append(asdict(line))
        state.save(known)


def clear(known: state.State, name: str | None = None) -> tuple[Line, ...]:
    """Makes connections to a listener good again, or to all; which were not. Those that went over a bad line end."""
    with state.lock(known.name):
        known.__dict__.update(vars(state.load(known.name)))
        gone = tuple(line for line in listed(known) if name in (None, line.name))
        if gone:
            _end(known, lambda one: name in (None, one))
    return gone


def end_all(known: state.State) -> None:
    """Ends every bad line of a stack that its caller holds."""
    if known.lines:
        _end(known, lambda _: True)


def _end(known: state.State, chosen: Callable[[str], bool]) -> None:
    """Ends those of the bad lines whose name is chosen, and notes it at once: they do not come back where what follows fails."""
    for one in inventory.containers(known.name, LINE):
        if chosen(one.labels[LINE]):
            engine.discard(one.id)
    known.lines = [one for one in known.lines if not chosen(one["name"])]
    state.save(known)


def _await(container: str) -> None:
    """Waits until a line carries. Raises EngineError where it cannot."""
    deadline = time.monotonic() + _READY_WITHIN
    while _READY not in (said := engine.logs(container)):
        if engine.last_words(container) or time.monotonic() > deadline:
            raise EngineError(f"connections cannot be led over a bad line: {said.strip() or 'no word'}", "it needs nftables in the engine's kernel (nf_tables, nft_nat)")
        time.sleep(_PAUSE)


def _place(known: state.State, name: str) -> tuple[str, int]:
    """The service that has a listener, and the port inside. Raises UsageError for one that is not there."""
    there: dict[str, tuple[str, int]] = {}
    for service, part in state.parts(known.endpoints).items():
        backend = all_backends()[part["backend"]]
        there |= {f"{service}.{listener}": (service, backend.listeners[listener].port) for listener in open_listeners(part)}
        way = part.get("delivery", "")
        if way in backend.delivery and (port := backend.delivery[way].port):
            there[f"{service}.{way}"] = service, port
    if name not in there:
        raise UsageError(f"the stack {known.name} has no listener {name}", f"it has {', '.join(there)}")
    return there[name]


def _check(line: Line) -> None:
    """Raises UsageError for values that do not go together."""
    carries = bool(line.latency or line.no_starttls or line.bandwidth is not None or line.drop_after is not None)
    if carries + line.hang + line.refuse != 1:
        raise UsageError("a bad line hangs, or refuses, or carries badly", "give --hang, or --refuse, or some of --latency, --bandwidth, --drop-after and --no-starttls")
    if not 0 <= line.latency <= _LONGEST:
        raise UsageError(f"a latency of {line.latency:g} s", f"at most {_LONGEST:g} s")
    for number, word in ((line.bandwidth, "octets a second"), (line.drop_after, "octets")):
        if number is not None and number < 1:
            raise UsageError(f"{number} {word}", "a number from 1")
