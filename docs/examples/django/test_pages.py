import ssl
from urllib.parse import urlsplit

import django
import pages
import pytest
from django.test import Client, override_settings


@pytest.fixture(scope="session")
def site(mail_stack):
    with pytest.MonkeyPatch.context() as patch:
        for key, value in mail_stack.environment.items():
            patch.setenv(key, value)
        patch.setenv("SSL_CERT_FILE", mail_stack.environment["MAIL_CA"])
        patch.setenv("SHOP_ADDRESS", "alice@example.test")
        patch.setenv("SHOP_PASSWORD", mail_stack.environment["MAIL_PASSWORD_ALICE"])
        pages.configure()
        django.setup()
        yield Client(headers={"host": "shop.example.test"})


def test_the_link_in_the_mail_leads_to_a_welcome(site, mailbox):
    assert site.post("/sign-up", {"address": mailbox.address}).status_code == 202
    [link] = mailbox.wait_for(subject="Please confirm").links()
    assert site.get(urlsplit(link).path).content.decode() == f"Welcome, {mailbox.address}!"
    assert site.get(urlsplit(link).path).status_code == 404


def test_mail_goes_to_no_server_that_cannot_show_who_it_is(site, mailbox):
    with override_settings(EMAIL_HOST="127.0.0.2"), pytest.raises((ssl.SSLCertVerificationError, ConnectionError)):
        site.post("/sign-up", {"address": mailbox.address})
    mailbox.assert_none(within=0.3)
