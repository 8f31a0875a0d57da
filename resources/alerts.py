"""The channel by which staff are told: one e-mail, or one JSON POST to a webhook. The facility file says which.

    alerts:
      channel: email                 # none: alerts are kept in the ledger and shown by `als alerts`, and sent nowhere
      email: {host: smtp.example.org, sender: als@example.org, to: "one@example.org, two@example.org"}
      webhook: {url_env: ALS_ALERTS_WEBHOOK}           # Slack's form: {"text": "…"}

`send` tries once, ends within about half a minute, and raises NotSent with what to do. What is worth telling is decided
in sensors/alerts.py.
"""

from __future__ import annotations

import json
import re
import smtplib
import ssl
import urllib.error
import urllib.request
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from resources import credentials
from resources.errors import CredentialProblem

ANSWER_S = 8.0  # of each step; a sensor must answer within a minute
SERVICE = "alerts"
MOST_SUBJECT = 150


class NotSent(Exception):
    """The message did not leave, or nobody knows whether it did. The words say why and what to do."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Email(Part):
    """A mail server. Secrets are in the variables whose *names* are given here."""

    host: str = ""
    port: int = 587
    security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="none: a server on loopback")
    sender: str = ""
    to: str = Field(default="", description="addresses, with commas between them")
    username_env: str = Field(default="ALS_SMTP_USERNAME", description="not set: the server wants no account")
    password_env: str = "ALS_SMTP_PASSWORD"

    @field_validator("to")
    @classmethod
    def _addresses(cls, value: str) -> str:
        wrong = [address for _, address in getaddresses([value]) if "@" not in address] if value else []
        if wrong:
            raise ValueError(f"{value!r} must be e-mail addresses with commas between them")
        return value


class Webhook(Part):
    """An address is a secret by itself, so only the variable that holds it, or names the file of it, is given."""

    url_env: str = "ALS_ALERTS_WEBHOOK"


class Alerts(Part):
    """What is told, how soon, and to whom."""

    channel: Literal["none", "email", "webhook"] = "none"
    email: Email = Field(default_factory=Email)
    webhook: Webhook = Field(default_factory=Webhook)
    look_s: float = Field(default=60, gt=0, description="how often staff's concerns are looked for")
    resting_s: float = Field(default=1800, description="a service that rests longer is worth a message")
    every_s: float = Field(default=600, description="at most one message in so long; what comes meanwhile shares it")
    clear_s: float = Field(default=600, description="cleared only after so long without it: no message per flicker")
    failing_ticks: int = Field(default=3, ge=1, description="a sensor that fails so often in a row")
    disk_free_percent: float = Field(default=10, ge=0, le=100, description="a disk with less is nearly full …")
    disk_free_gb: float = Field(default=20, ge=0, description="… unless it has so much left")
    backup_days: float = Field(default=2, gt=0, description="the newest backup of the ledger must not be older")
    credential_s: float = Field(default=3600, description="how often the end of credentials is asked for")

    def nearly_full(self, total: float, free: float) -> bool:
        """Bytes."""
        return free < min(total * self.disk_free_percent / 100, self.disk_free_gb * 1e9)


def send(settings: Alerts, subject: str, text: str) -> None:
    """Bring one message on its way. Does nothing for channel `none`. Raises NotSent."""
    subject = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", subject).split())[:MOST_SUBJECT]
    try:
        if settings.channel == "email":
            _mail(settings.email, subject, text)
        elif settings.channel == "webhook":
            _post(settings.webhook, f"*{subject}*\n{text}")
    except CredentialProblem as problem:
        raise NotSent(problem.reason) from None


def where(settings: Alerts) -> str:
    """To whom, in words without a secret."""
    if settings.channel == "email":
        return f"e-mail to {settings.email.to or 'nobody'} through {settings.email.host or 'no server'}"
    if settings.channel == "webhook":
        return f"the webhook that {settings.webhook.url_env} names"
    return "nobody: the facility file says alerts: channel: none"


def _mail(server: Email, subject: str, text: str) -> None:
    for field, value in (("host", server.host), ("sender", server.sender), ("to", server.to)):
        if not value:
            raise NotSent(f"alerts.email.{field} of the facility file is empty: set it, or the variable that it names")
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, server.sender, server.to
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=server.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # no answers of absent people
    message.set_content(text.encode("utf-8", "backslashreplace").decode())
    try:
        with _connected(server) as smtp:
            if credentials.given(server.username_env):
                name = credentials.read(server.username_env, SERVICE, "the account at the mail server")
                password = credentials.read(server.password_env, SERVICE, "the password at the mail server")
                smtp.login(name, password)
            refused = smtp.send_message(message)
    except smtplib.SMTPAuthenticationError:
        raise NotSent(f"{server.host} does not accept the account of {server.username_env}") from None
    except smtplib.SMTPRecipientsRefused as error:
        raise NotSent(f"{server.host} refuses every address: {', '.join(error.recipients)}") from None
    except (smtplib.SMTPException, OSError) as error:  # ssl.SSLError is an OSError
        raise NotSent(f"{server.host}:{server.port} did not take the message: {_said(error)}") from None
    if refused:
        raise NotSent(f"{server.host} refuses some addresses: {', '.join(refused)}")


def _connected(server: Email) -> smtplib.SMTP:
    verified = ssl.create_default_context()  # the certificate is checked: the password goes over this line
    if server.security == "tls":
        return smtplib.SMTP_SSL(server.host, server.port, timeout=ANSWER_S, context=verified)
    smtp = smtplib.SMTP(server.host, server.port, timeout=ANSWER_S)
    try:
        if server.security == "starttls":
            smtp.starttls(context=verified)
    except BaseException:
        smtp.close()
        raise
    return smtp


def _post(hook: Webhook, text: str) -> None:
    url = credentials.read(hook.url_env, SERVICE, "the address of the webhook")
    if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise NotSent(f"the address in {hook.url_env} does not begin with https://")
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with _opener(url).open(request, timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:  # the address is a secret: it is in none of these words
        raise NotSent(f"the webhook of {hook.url_env} answered HTTP {error.code}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise NotSent(f"the webhook of {hook.url_env} cannot be reached: {type(error).__name__}") from None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """A proxy of this machine cannot know its loopback addresses. Redirections lead elsewhere and are not followed."""
    local: list[Any] = [] if url.startswith("https://") else [urllib.request.ProxyHandler({})]
    return urllib.request.build_opener(*local, _NoRedirect)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _said(error: Exception) -> str:
    code = getattr(error, "smtp_code", None)
    words = getattr(error, "smtp_error", b"")
    said = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    return f"{code} {said}" if code else f"{type(error).__name__}: {error}"
