"""The channel: one e-mail or webhook message, to real servers on loopback; secrets by variable; trouble in words."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from resources.alerts import Alerts, Email, NotSent, Webhook, send, where
from tests.production.mailbox import Hook, Mail, certificate, up


def by_mail(mail: Mail, **more: Any) -> Alerts:
    given = {"host": "localhost", "port": mail.port, "security": "none", "sender": "als@example.org",
             "to": "one@example.org, two@example.org", **more}  # fmt: skip
    return Alerts(channel="email", email=Email(**given))


def test_an_e_mail_goes_to_everybody_with_a_subject_of_one_line() -> None:
    with up(Mail()) as mail:
        send(by_mail(mail), "two scans\nfailed: \x07 bad", "Gr\u00fc\u00dfe\nq = 0.1 \u00c5\u207b\u00b9 \udc80")
    (message,) = mail.messages
    assert (message["Subject"], message["From"]) == ("two scans failed: bad", "als@example.org")
    assert message["To"] == "one@example.org, two@example.org" and message["Auto-Submitted"] == "auto-generated"
    assert "Gr\u00fc\u00dfe" in message.get_content() and "\\udc80" in message.get_content()
    assert [line for line in mail.said if line.startswith("rcpt")] == [
        "rcpt TO:<one@example.org>", "rcpt TO:<two@example.org>"
    ]  # fmt: skip


def test_by_default_the_line_is_encrypted_and_the_password_read_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("ALS_SMTP_USERNAME", "als")
    (tmp_path / "password").write_text("wrong\n")
    (tmp_path / "password").chmod(0o600)
    monkeypatch.setenv("ALS_SMTP_PASSWORD_FILE", str(tmp_path / "password"))
    with up(Mail(pem, ("als", "right"))) as mail:
        settings = by_mail(mail, security="starttls")
        with pytest.raises(NotSent, match="does not accept the account of ALS_SMTP_USERNAME") as refused:
            send(settings, "s", "t")
        (tmp_path / "password").write_text("right\n")  # no restart
        send(settings, "s", "t")
    assert mail.said[:2] == [mail.said[0], "STARTTLS"] and len(mail.messages) == 1
    assert "wrong" not in str(refused.value)


def test_a_certificate_that_nobody_vouches_for_gets_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_SMTP_USERNAME", "als")
    monkeypatch.setenv("ALS_SMTP_PASSWORD", "right")
    strange = Mail(certificate(tmp_path), ("als", "right"))
    with up(strange) as mail, pytest.raises(NotSent, match="certificate verify failed"):
        send(by_mail(mail, security="starttls"), "s", "t")
    assert "AUTH" not in mail.said


def test_a_server_without_encryption_is_not_used_when_it_is_asked_for() -> None:
    with up(Mail()) as mail, pytest.raises(NotSent, match="STARTTLS"):
        send(by_mail(mail, security="starttls"), "s", "t")
    assert mail.messages == []


@pytest.mark.parametrize(
    ("more", "words"),
    [({"host": ""}, "alerts.email.host"), ({"to": ""}, "alerts.email.to"), ({"sender": ""}, "alerts.email.sender")],
)
def test_what_is_missing_is_named(more: dict[str, Any], words: str) -> None:
    with up(Mail()) as mail, pytest.raises(NotSent, match=words):
        send(by_mail(mail, **more), "s", "t")


def test_a_server_that_refuses_or_is_not_there_is_told_in_words() -> None:
    with up(Mail()) as mail:
        mail.refuse = "452 out of storage"
        with pytest.raises(NotSent, match="452 out of storage"):
            send(by_mail(mail), "s", "t")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(NotSent, match="did not take the message"):
            send(by_mail(mail, port=nobody.getsockname()[1], host="127.0.0.1"), "s", "t")


def test_a_webhook_gets_one_json_document_and_its_address_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Alerts(channel="webhook", webhook=Webhook(url_env="ALS_ALERTS_WEBHOOK"))
    with up(Hook()) as hook:
        monkeypatch.setenv("ALS_ALERTS_WEBHOOK", hook.url)
        send(settings, "two scans failed", "a.h5: quota")
        assert hook.documents == [{"text": "*two scans failed*\na.h5: quota"}]
        for code in (302, 404, 500):
            hook.code = code
            with pytest.raises(NotSent, match=f"ALS_ALERTS_WEBHOOK answered HTTP {code}") as refused:
                send(settings, "s", "t")
            assert "secret-path" not in str(refused.value)
    with pytest.raises(NotSent, match="cannot be reached") as lost:
        send(settings, "s", "t")
    assert "secret-path" not in str(lost.value)
    monkeypatch.setenv("ALS_ALERTS_WEBHOOK", "http://hooks.example.org/secret-path")
    with pytest.raises(NotSent, match="does not begin with https"):
        send(settings, "s", "t")
    monkeypatch.delenv("ALS_ALERTS_WEBHOOK")
    with pytest.raises(NotSent, match="set ALS_ALERTS_WEBHOOK, or ALS_ALERTS_WEBHOOK_FILE"):
        send(settings, "s", "t")


def test_no_channel_sends_nothing_and_who_is_told_is_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALS_ALERTS_WEBHOOK", "https://hooks.example.org/secret-path")
    send(Alerts(), "s", "t")
    assert "nobody" in where(Alerts())
    assert where(Alerts(channel="webhook")) == "the webhook that ALS_ALERTS_WEBHOOK names"
    assert "one@example.org" in where(Alerts(channel="email", email=Email(host="h", to="one@example.org")))


def test_addresses_that_are_none_are_refused_when_the_file_is_read() -> None:
    with pytest.raises(ValidationError, match="must be e-mail addresses"):
        Email(to="the night shift")
