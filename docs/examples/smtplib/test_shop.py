import smtplib

import pytest
import shop


@pytest.fixture(autouse=True)
def mail_server(mail_stack, monkeypatch):
    for key, value in mail_stack.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SHOP_ADDRESS", "alice@example.test")
    monkeypatch.setenv("SHOP_PASSWORD", mail_stack.environment["MAIL_PASSWORD_ALICE"])


def test_a_customer_confirms_by_the_link_that_came_by_mail(mailbox):
    shop.sign_up(mailbox.address)
    message = mailbox.wait_for(subject="Welcome", sender="alice@")
    [link] = message.links()
    assert shop.confirm(link)
    assert mailbox.address in shop.customers


def test_a_link_is_good_once(mailbox):
    shop.sign_up(mailbox.address)
    [link] = mailbox.wait_for(subject="Welcome").links()
    assert shop.confirm(link)
    assert not shop.confirm(link)


def test_nobody_signs_up_with_an_address_that_is_refused():
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        shop.sign_up("550.rcpt@fault.example.test")
    assert not shop.customers & {"550.rcpt@fault.example.test"}
