"""A shop that writes to whoever signs up. Where its mail server is, it knows from the environment, as in production."""

import os
import secrets
import smtplib
import ssl
from email.message import EmailMessage

LINK = "https://shop.example.test/confirm/"
waiting: dict[str, str] = {}  # token -> address
customers: set[str] = set()


def sign_up(address: str) -> None:
    """Sends a link that proves that the address is the customer's."""
    token = secrets.token_urlsafe(16)
    message = EmailMessage()
    message["From"] = os.environ["SHOP_ADDRESS"]
    message["To"] = address
    message["Subject"] = "Welcome to the shop"
    message.set_content(f"Please confirm that this is your address:\n\n{LINK}{token}\n")
    with smtplib.SMTP(os.environ["MAIL_SUBMISSION_HOST"], int(os.environ["MAIL_SUBMISSION_PORT"])) as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=os.environ.get("MAIL_CA")))
        smtp.login(os.environ["SHOP_ADDRESS"], os.environ["SHOP_PASSWORD"])
        smtp.send_message(message)
    waiting[token] = address


def confirm(link: str) -> bool:
    """Makes a customer of whoever has the link; whether it was a good one."""
    address = waiting.pop(link.removeprefix(LINK), None)
    if address:
        customers.add(address)
    return address is not None
