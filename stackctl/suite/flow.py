"""The matrix: real-life messages by every way in, read from every store by every way out. It only sends to addresses of its own.

The messages are sent once for each way in; every store and way out reads the same ones.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace

from stackctl import corpus
from stackctl.corpus import Sample
from stackctl.scenario import AXES, FOREIGN_SENDER, Context, Recorder, expect, scenario

LARGE, RAW_UTF8 = "ten_megabytes", "raw_utf8_header"
TRACE = ("return-path", "delivered-to", "x-original-to", "received")  # what delivery may put on top of a message
# RFC 3848, RFC 6531 4.3: how the MTA says that a message came, with TLS and with a login
PROTOCOLS = {"smtp": "ESMTPS", "submission": "ESMTPSA", "submissions": "ESMTPSA"}


@scenario(feature=("A5", "B1", "C5", "D1", "D2"), over=AXES)
def every_message_comes_out_as_it_went_in(context: Context) -> None:
    """Octet for octet, exactly once, under the trace headers of its way."""
    _round_trip(context, [name for name in corpus.messages("a@b", "a@b") if name not in (LARGE, RAW_UTF8)])


@scenario(feature=("A5", "B8"), over=AXES)
def a_message_of_ten_megabytes_comes_out_as_it_went_in(context: Context) -> None:
    """130,000 lines; a lost or doubled one shows."""
    _round_trip(context, [LARGE])


@scenario(feature=("A5", "B1"), over=AXES, of_mta={"smtputf8"})
def a_message_with_raw_utf8_headers_comes_out_as_it_went_in(context: Context) -> None:
    """SMTPUTF8 (RFC 6531) with ASCII addresses."""
    _round_trip(context, [RAW_UTF8])


@scenario(feature="A5", over=("store", "way_out"))
def a_message_to_one_address_is_in_no_other_mailbox(context: Context) -> None:
    """The negative twin of the matrix: reading finds nothing where nothing was sent."""
    one, other = context.fresh("one"), context.fresh("other")
    context.send(one, context.message(FOREIGN_SENDER, one))
    context.mailbox(one, 1)
    context.mailbox(other, 0)


@scenario(feature="A5", over=("store",))
def every_recipient_of_a_message_gets_it_once(context: Context) -> None:
    """One transaction, three mailboxes, one of them named twice."""
    to = [context.fresh("a"), context.fresh("b"), context.fresh("c")]
    message = context.message(FOREIGN_SENDER, ", ".join(to))
    context.send([*to, to[0]], message)
    for address in to:
        expect(_unfolded(context.mailbox(address, 1)[0]).endswith(_unfolded(message)), f"{address} got another message")


@scenario(feature="A5", over=("store",), of_mta={"folding"})
def a_long_list_of_addresses_stays_as_it_was_folded(context: Context) -> None:
    """RFC 5322 2.2.3: where its lines end means nothing, but a signature (RFC 6376 3.4.1) may be over it."""
    to = context.fresh()
    message = context.message(FOREIGN_SENDER, f"{to}, one-{to}, two-{to},\r\n\tthree-{to}")
    context.send(to, message)
    expect(context.mailbox(to, 1)[0].endswith(message), "the message was changed")


def _unfolded(octets: bytes) -> bytes:
    """A message with each header field on one line."""
    header, end, body = octets.partition(b"\r\n\r\n")
    return re.sub(rb"\r\n[ \t]+", b" ", header) + end + body


def _round_trip(context: Context, names: Sequence[str]) -> None:
    """Sends the samples, unless another case did, and compares what the case's way out gives."""
    way = context.case.way_in or ""
    recipient = f"{names[0].replace('_', '-')}-{context.run_tag}-{way}@{context.disposable}"
    sender = FOREIGN_SENDER if way == "smtp" else f"writer-{context.run_tag}@{context.disposable}"
    samples = {name: sample for name, sample in corpus.messages(sender, recipient, context.run_tag).items() if name in names}

    recorder = context.shared.once(f"recorder of {recipient}", Recorder)

    def send() -> None:
        here = replace(context, recorder=recorder)
        with here.smtp(way, None if way == "smtp" else sender) as smtp:
            for sample in samples.values():
                smtp.send(sender, [recipient], sample.octets, smtputf8=sample.smtputf8)

    try:
        context.shared.once(recipient, send)
    finally:
        context.recorder.include(recorder)
    # RFC 1939 3: one session at a time has a maildrop to itself. Not every server sees to it, so the cases that share a mailbox do.
    with context.shared.once(f"maildrop of {recipient} on {context.case.store}", threading.Lock):
        arrived = [_unwrapped(octets) for octets in context.mailbox(recipient, len(samples))]
    faults = []
    mbox = context.endpoints["stores"][context.case.store]["mailbox"] == "mbox"
    for sample in samples.values():
        if mbox:
            sample = replace(sample, octets=_from_mbox(sample.octets))
            arrived = [_from_mbox(octets) for octets in arrived]
        here = [octets for octets in arrived if f"Message-ID: {sample.message_id}".encode() in octets]
        expected = PROTOCOLS[way].replace("ESMTP", "UTF8SMTP") if sample.smtputf8 else PROTOCOLS[way]
        faults += (
            [f"{sample.name}: {fault}" for fault in differences(here[0], sample, sender, recipient, context.endpoints["tls_name"], expected)]
            if len(here) == 1
            else [f"{sample.name}: it came {len(here)} times"]
        )
    expect(not faults, f"{len(faults)} differences:\n" + "\n".join(faults))


def _unwrapped(octets: bytes) -> bytes:
    """A message out of the surrogate that POP3 may show to clients that do not say UTF8 (RFC 6856 2.1, 4): whole, as message/global."""
    found = re.match(rb".*?boundary=\"([^\"]+)\".*?\r\n--\1\r\nContent-Type: message/global\r\n\r\n(.*)\r\n--\1--\r\n$", octets, re.DOTALL)
    return found[2] if found and octets.startswith(b"From: Mail Delivery Subsystem") else octets


def _from_mbox(octets: bytes) -> bytes:
    """A message as every writer and reader of an mbox agrees on it (RFC 4155): how many empty lines end it, and whether "From " has ">" before it, is open."""
    return re.sub(rb"(?m)^>+From ", b"From ", octets).rstrip(b"\r\n") + b"\r\n"


def differences(got: bytes, sample: Sample, sender: str, recipient: str, mta: str, protocol: str) -> list[str]:
    """What is wrong with a message as it came: its own octets, then what was put on top."""
    if not got.endswith(sample.octets):
        return [_first_difference(got, sample.octets)]
    headers = _headers(got[: -len(sample.octets)])
    faults = [f"a header was added: {name}: {value}" for name, value in headers if name not in TRACE]
    paths = [value for name, value in headers if name == "return-path"]
    if paths != [f"<{sender}>"]:
        faults.append(f"Return-Path is {paths}, the envelope sender was {sender}")
    # A store that is handed its mail in place knows an address by one more label than its user does.
    delivered = [value.strip("<>") for name, value in headers if name == "delivered-to"]
    if not all(address == recipient or address.startswith(f"{recipient}.") for address in delivered):
        faults.append(f"Delivered-To is {delivered}, the recipient was {recipient}")
    received = [found[1] for name, value in headers if name == "received" and (found := re.search(rf"by {re.escape(mta)}\b.*? with (\w+)", value))]
    if protocol not in received or len(received) != 1:
        faults.append(f"{mta} received it with {' and '.join(received) or 'no Received header'}, expected {protocol}")
    return faults


def _headers(octets: bytes) -> list[tuple[str, str]]:
    lines = re.sub(r"\r\n[ \t]+", " ", octets.decode("utf-8", "replace")).split("\r\n")
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]


def _first_difference(got: bytes, expected: bytes) -> str:
    """Where a message differs from what was sent, with the octets around it; header and body are looked at apart."""
    first = expected.partition(b"\r\n")[0]
    start = got.find(first)
    if start < 0:
        return f"the first line {first[:60]!r} is gone"
    tail = got[start:]
    at = next((at for at, (one, other) in enumerate(zip(tail, expected, strict=False)) if one != other), min(len(tail), len(expected)))
    where = "body" if at > expected.index(b"\r\n\r\n") else "header"
    return f"{where} differs at octet {at} of {len(expected)} ({len(tail)} came): {tail[max(0, at - 30) : at + 30]!r} instead of {expected[max(0, at - 30) : at + 30]!r}"
