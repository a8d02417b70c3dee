"""A sign-up page in Django, in one file; its mail server is in the environment."""

import os
import secrets

from django.conf import settings
from django.core.mail import send_mail
from django.http import HttpResponse
from django.urls import path

waiting: dict[str, str] = {}


def configure() -> None:
    """The settings of the site."""
    settings.configure(
        ALLOWED_HOSTS=["shop.example.test"],
        ROOT_URLCONF=__name__,
        SECRET_KEY=secrets.token_urlsafe(32),
        EMAIL_HOST=os.environ["MAIL_SUBMISSION_HOST"],
        EMAIL_PORT=int(os.environ["MAIL_SUBMISSION_PORT"]),
        EMAIL_USE_TLS=True,  # verified against $SSL_CERT_FILE, where that is set
        EMAIL_HOST_USER=os.environ["SHOP_ADDRESS"],
        EMAIL_HOST_PASSWORD=os.environ["SHOP_PASSWORD"],
        DEFAULT_FROM_EMAIL=os.environ["SHOP_ADDRESS"],
    )


def sign_up(request):
    """Sends the link that confirms an address."""
    token, address = secrets.token_urlsafe(16), request.POST["address"]
    send_mail("Please confirm", f"https://shop.example.test/confirm/{token}", None, [address])
    waiting[token] = address
    return HttpResponse("Look into your mailbox.", status=202)


def confirm(request, token):
    """Where the link leads."""
    address = waiting.pop(token, None)
    return HttpResponse(f"Welcome, {address}!") if address else HttpResponse("This link is no longer good.", status=404)


urlpatterns = [path("sign-up", sign_up), path("confirm/<token>", confirm)]
