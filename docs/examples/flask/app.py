"""A sign-up page in Flask whose mail server is in the environment."""

import os
import secrets
import smtplib
import ssl
from email.message import EmailMessage

from flask import Flask, request, url_for

app = Flask(__name__)
app.config["SERVER_NAME"] = "shop.example.test"
waiting: dict[str, str] = {}


@app.post("/sign-up")
def sign_up():
    """Sends the link that confirms an address."""
    token = secrets.token_urlsafe(16)
    message = EmailMessage()
    message["From"] = os.environ["SHOP_ADDRESS"]
    message["To"] = request.form["address"]
    message["Subject"] = "Please confirm"
    message.set_content(url_for("confirm", token=token, _external=True))
    with smtplib.SMTP_SSL(
        os.environ["MAIL_SUBMISSIONS_HOST"],
        int(os.environ["MAIL_SUBMISSIONS_PORT"]),
        context=ssl.create_default_context(cafile=os.environ.get("MAIL_CA")),
    ) as smtp:
        smtp.login(os.environ["SHOP_ADDRESS"], os.environ["SHOP_PASSWORD"])
        smtp.send_message(message)
    waiting[token] = request.form["address"]
    return "Look into your mailbox.", 202


@app.get("/confirm/<token>")
def confirm(token):
    """Where the link leads."""
    address = waiting.pop(token, None)
    return (f"Welcome, {address}!", 200) if address else ("This link is no longer good.", 404)
