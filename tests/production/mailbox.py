"""A mail server and a webhook on loopback: what arrives is kept, and either can be told to refuse."""

from __future__ import annotations

import contextlib
import datetime
import email
import email.message
import email.policy
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Mail:
    """SMTP with STARTTLS and AUTH PLAIN/LOGIN: as much of it as smtplib speaks.

    Attributes:
        messages: what arrived. said: the commands, in order. refuse: a reply to MAIL FROM instead of 250.
    """

    def __init__(self, certificate: Path | None = None, account: tuple[str, str] | None = None) -> None:
        self.messages: list[email.message.EmailMessage] = []
        self.said: list[str] = []
        self.refuse = ""
        self.certificate, self.account = certificate, account
        mail = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    mail.converse(self)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def converse(self, peer: Any) -> None:
        reader, writer, safe = peer.rfile, peer.wfile, False

        def say(words: str) -> None:
            writer.write(words.encode() + b"\r\n")
            writer.flush()

        say("220 here")
        while line := reader.readline().decode().rstrip("\r\n"):
            verb = line.split(" ")[0].upper()
            self.said.append(line if verb != "AUTH" else "AUTH")
            if verb == "EHLO":
                can = ["here"] + (["STARTTLS"] if self.certificate and not safe else [])
                can += ["AUTH PLAIN"] if self.account and safe else []
                for i, word in enumerate(can):
                    say(f"250{' ' if i == len(can) - 1 else '-'}{word}")
            elif verb == "STARTTLS":
                say("220 go")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(str(self.certificate))
                wrapped = context.wrap_socket(peer.connection, server_side=True)
                reader, writer, safe = wrapped.makefile("rb"), wrapped.makefile("wb"), True
            elif verb == "AUTH":
                import base64

                _, name, password = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                say("235 ok" if (name, password) == self.account else "535 no")
            elif verb == "MAIL" and self.refuse:
                say(self.refuse)
            elif verb == "DATA":
                say("354 go")
                lines = []
                while (part := reader.readline()) != b".\r\n":
                    lines.append(part)
                self.messages.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))  # type: ignore[arg-type]
                say("250 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


class Hook:
    """A webhook: `documents` are what was posted; `code` is what it answers."""

    def __init__(self) -> None:
        self.documents: list[Any] = []
        self.code = 200
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.code)
                if hook.code == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/T000/secret-path"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@contextlib.contextmanager
def up(server: Mail | Hook) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()


def certificate(folder: Path, name: str = "localhost") -> Path:
    """A key and a certificate for it in one file, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / "mail.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
