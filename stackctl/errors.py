"""Every error that stackctl raises on purpose. It never prints: the command line does.

A class per exit code, so that scripts can tell a bad file from a broken engine. Anything else that
escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class StackctlError(Exception):
    """What went wrong, and what to do next.

    `message` says what and where; `hint` is the next step for the person at the terminal ("" if none).
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(StackctlError):
    """A check or a test of a stack failed."""

    exit_code = 1


class UsageError(StackctlError):
    """The command line or a file of the user's cannot be acted on."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One fault in a file: `where` is `path:line` (or `path`), `hint` what to write instead ("" if none)."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class BadStack(UsageError):
    """stack.yaml has problems; all of them, in file order, in `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)), "nothing was started; `stackctl schema` describes every key")
        self.problems = tuple(problems)


class EngineError(StackctlError):
    """The container engine, or something that it should do, is missing or failed."""

    exit_code = 3


class PortTaken(EngineError):
    """A port of this machine that a container was to have went to another program; `listener` says whose ("dovecot.imaps"), "" where that is not known."""

    def __init__(self, message: str, hint: str, listener: str) -> None:
        super().__init__(message, hint)
        self.listener = listener


class TimedOut(StackctlError):
    """A deadline passed; the message ends in the last thing that was seen."""

    exit_code = 4
