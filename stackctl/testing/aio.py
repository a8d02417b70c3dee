"""A mailbox for asynchronous tests: each call of Mailbox in a thread of its own. A call that is cancelled ends there at its own deadline."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from stackctl.testing.mailbox import Mailbox

P = ParamSpec("P")
T = TypeVar("T")


def _threaded(method: Callable[Concatenate[Mailbox, P], T]) -> Callable[Concatenate[AsyncMailbox, P], Coroutine[Any, Any, T]]:
    async def call(self: AsyncMailbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        return await to_thread(method, self.mailbox, *args, **kwargs)

    update_wrapper(call, method)
    return call


class AsyncMailbox:
    """The calls of a Mailbox, to be awaited. Two at the same time on one mailbox wait for each other, on two they do not."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox, self.address, self.password = mailbox, mailbox.address, mailbox.password

    wait_for = _threaded(Mailbox.wait_for)
    wait_for_count = _threaded(Mailbox.wait_for_count)
    wait_for_bounce = _threaded(Mailbox.wait_for_bounce)
    assert_none = _threaded(Mailbox.assert_none)
    messages = _threaded(Mailbox.messages)
    links = _threaded(Mailbox.links)
    codes = _threaded(Mailbox.codes)
    attachments = _threaded(Mailbox.attachments)
    send_from = _threaded(Mailbox.send_from)
    send_to = _threaded(Mailbox.send_to)
    delete_all = _threaded(Mailbox.delete_all)
