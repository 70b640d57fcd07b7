"""S3 servers for tests: a strict one, one behind TLS, and stubs that misbehave on purpose.

The strict one is ministack, in a separate virtual environment: it checks signatures, expiry, users
and policies as AWS does, but not for its root key, so that tests use the keys of users.
"""

import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kontext.child_process import child_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MINISTACK = Path(__file__).parents[2] / ".venv-s3/bin/ministack"

WORKER_ACTIONS = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject")
"""The rights that a worker needs."""


@dataclass(frozen=True, slots=True)
class Key:
    """An access key; a temporary one has a token."""

    access_key_id: str
    secret: str
    token: str | None = None


class StrictServer:
    """A running ministack, administered with its root key."""

    def __init__(self, endpoint_url: str, root: Key) -> None:
        self.endpoint_url = endpoint_url
        self._root = root
        self._s3: S3Client = self._client("s3", root)

    def new_bucket(self) -> str:
        name = f"results-{secrets.token_hex(4)}"
        self._s3.create_bucket(Bucket=name)
        return name

    def new_user(self, *actions: str) -> Key:
        """Return the key of a user who may do `actions` in every bucket, and nothing else."""
        name = f"user-{secrets.token_hex(4)}"
        allow = {"Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::*"}
        policy = {"Version": "2012-10-17", "Statement": [allow]}
        iam = self._client("iam", self._root)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Key(key["AccessKeyId"], key["SecretAccessKey"])

    def temporary(self, key: Key) -> Key:
        """Return a temporary key of the same user."""
        given = self._client("sts", key).get_session_token()["Credentials"]
        return Key(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])

    def keys(self, bucket: str) -> list[str]:
        """Name the objects of a bucket."""
        listed = self._s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [entry["Key"] for entry in listed]

    def read(self, bucket: str, key: str) -> bytes:
        return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def environment(self, bucket: str, key: Key) -> dict[str, str]:
        """Return the variables that point a worker at a bucket."""
        return {
            "BUCKET_ENDPOINT_URL": self.endpoint_url,
            "BUCKET_NAME": bucket,
            "BUCKET_ACCESS_KEY_ID": key.access_key_id,
            "BUCKET_SECRET_ACCESS_KEY": key.secret,
        }

    def _client(self, service: Any, key: Key) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=key.access_key_id,
            aws_secret_access_key=key.secret,
            aws_session_token=key.token,
        )


@contextmanager
def strict_server(home: Path) -> Iterator[StrictServer]:
    """Run ministack, which writes below `home`, until the block or this process ends."""
    if not MINISTACK.is_file():
        raise FileNotFoundError("The strict S3 server is not installed: make .venv-s3/installed")
    root = Key("AKROOT", secrets.token_hex(20))
    environment = {
        "AUTH": "true",  # the only value that enables it
        "AWS_ACCESS_KEY_ID": root.access_key_id,
        "AWS_SECRET_ACCESS_KEY": root.secret,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(unused_port()),
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
    }
    with child_server([str(MINISTACK)], r"Running on (http://\S+)", environment) as address:
        yield StrictServer(address, root)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and store.example.com."""

    chain: Path
    private_key: Path

    @property
    def trust(self) -> ssl.SSLContext:
        """A TLS context that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=self.chain)


def self_signed(directory: Path) -> Certificate:
    """Write a certificate and its key below `directory`."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    hosts = [x509.DNSName("store.example.com"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now().astimezone()
    certificate = (
        x509.CertificateBuilder(name, name, private_key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    written = Certificate(directory / "certificate.pem", directory / "key.pem")
    written.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    written.private_key.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return written


async def download(link: str, trust: ssl.SSLContext | None = None) -> httpx.Response:
    """Open a link without credentials."""
    async with httpx.AsyncClient(verify=trust or True) as client:
        return await client.get(link)


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def stub_server(*answers: Answer) -> Iterator[tuple[str, list[str]]]:
    """Answer each request with the next of `answers`, and every later one with the last.

    Yields:
        Its URL, and the request lines so far.
    """
    left = list(answers)
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # says "100 Continue", or boto3 waits a second for it

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.requestline)
            (left.pop(0) if len(left) > 1 else left[0])(self)

        do_PUT = do_GET = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Answer with a status."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def silent_server() -> Iterator[socket.socket]:
    """Listen, let clients connect, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def dripping_server() -> Iterator[str]:
    """Send response headers forever, one at a time; yield the URL."""
    given_up = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not given_up.wait(0.02):
            request.wfile.write(b"X-Drop: 1\r\n")
        request.close_connection = True

    with stub_server(drip) as (address, _):
        try:
            yield address
        finally:
            given_up.set()


def connections(listener: socket.socket) -> int:
    """Count the clients that have connected to a silent server."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def port(listener: socket.socket) -> int:
    number: int = listener.getsockname()[1]
    return number


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return port(listener)
