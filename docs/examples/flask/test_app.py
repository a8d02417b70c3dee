from urllib.parse import urlsplit

import pytest
from app import app


@pytest.fixture
def client(mail_stack, monkeypatch):
    for key, value in mail_stack.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SHOP_ADDRESS", "alice@example.test")
    monkeypatch.setenv("SHOP_PASSWORD", mail_stack.environment["MAIL_PASSWORD_ALICE"])
    return app.test_client()


def test_the_link_in_the_mail_leads_to_a_welcome(client, mailbox):
    assert client.post("/sign-up", data={"address": mailbox.address}).status_code == 202
    [link] = mailbox.wait_for(subject="Please confirm").links()
    assert client.get(urlsplit(link).path).text == f"Welcome, {mailbox.address}!"
    assert client.get(urlsplit(link).path).status_code == 404


def test_whoever_did_not_sign_up_gets_no_mail(client, mailbox, mailbox_factory):
    client.post("/sign-up", data={"address": mailbox_factory().address})
    mailbox.assert_none(within=0.3)
