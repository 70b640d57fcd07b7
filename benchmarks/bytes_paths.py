"""The steps of a job besides the GPU's, in this project and in a plain handler."""

import asyncio
import io
import os
from ipaddress import ip_network
from urllib.parse import urlsplit

import boto3
import requests
from botocore.config import Config
from PIL import Image
from ssrfguard import Policy

from kontext.contract.output_format import OutputFormat
from kontext.contract.size import Size
from kontext.images import reference
from kontext.images.decode_pool import decode_in_process
from kontext.images.encode import encode
from kontext.images.fetch import ImageFetcher
from kontext.images.provenance import Provenance
from kontext.storage import embedded_bucket
from kontext.storage.bucket import Bucket
from kontext.storage.result_file import ResultFile

TARGET = Size(1024, 1024)
"""Size of the result."""
PROVENANCE = Provenance(
    "kontext", "benchmark", "none", "exact", 1, 28, 2.5, str(TARGET), str(TARGET)
)


class Ours:
    """The steps of a job in this project.

    Args:
        bucket: The bucket that results are stored in.
        url: URL of the photograph, whose loopback server may be fetched from.
    """

    def __init__(self, bucket: Bucket, url: str) -> None:
        self._bucket = bucket
        loopback = (ip_network("127.0.0.0/8"),)
        ports = frozenset({urlsplit(url).port or 80})
        self._fetcher = ImageFetcher(Policy(allowed_networks=loopback, allowed_ports=ports))

    async def fetch(self, url: str) -> bytes:
        """Fetch the photograph's file."""
        return await self._fetcher.content(url)

    async def decode(self, content: bytes) -> Image.Image:
        """Decode the photograph."""
        return await asyncio.to_thread(decode_in_process, content, TARGET.area)

    async def fit(self, photograph: Image.Image) -> Image.Image:
        """Scale the photograph to the reference that the model sees."""
        return await asyncio.to_thread(reference.fit, photograph, TARGET)

    async def encode(self, result: Image.Image) -> bytes:
        """Encode the result as PNG."""
        return await asyncio.to_thread(encode, result, OutputFormat.PNG, PROVENANCE, 95)

    async def store(self, content: bytes) -> object:
        """Store the file and return its presigned URL."""
        file = ResultFile("ours", "png", content, "image/png", PROVENANCE.fields())
        return await self._bucket.store(file)


class Plain:
    """The steps of a job in a handler like those of Runpod's own workers."""

    async def fetch(self, url: str) -> bytes:
        """Fetch the photograph's file."""
        return requests.get(url, timeout=30).content  # noqa: ASYNC210 - as those workers do

    async def decode(self, content: bytes) -> Image.Image:
        """Decode the photograph."""
        return Image.open(io.BytesIO(content)).convert("RGB")

    async def fit(self, photograph: Image.Image) -> Image.Image:
        """Scale the photograph to the reference that the model sees."""
        sides = Size(*photograph.size).scaled_to_area(TARGET.area).grid
        return photograph.resize((sides.width, sides.height), Image.Resampling.LANCZOS)

    async def encode(self, result: Image.Image) -> bytes:
        """Encode the result as PNG."""
        return saved(result, "PNG")

    async def store(self, content: bytes) -> object:
        """Store the file and return its presigned URL."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=os.environ["BUCKET_ENDPOINT_URL"],
            aws_access_key_id=os.environ["BUCKET_ACCESS_KEY_ID"],
            aws_secret_access_key=os.environ["BUCKET_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(signature_version="s3v4"),
        )
        place = {"Bucket": embedded_bucket.NAME, "Key": "plain.png"}
        client.put_object(
            Bucket=place["Bucket"], Key=place["Key"], Body=content, ContentType="image/png"
        )
        return client.generate_presigned_url("get_object", Params=place, ExpiresIn=604800)


def saved(image: Image.Image, file_format: str, **options: int) -> bytes:
    """Return the image as a file, by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
