"""A result on its way to a bucket: the plain value between a worker and its storage."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file to store.

    Attributes:
        job_id: Names the object, so that a job that runs twice overwrites itself.
        extension: Of the file name, without the dot.
        content: The bytes.
        content_type: MIME type, as a browser shows it.
        metadata: ASCII only; travels as `x-amz-meta-*`.
    """

    job_id: str
    extension: str
    content: bytes
    content_type: str
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        """The job's id, or its hash when it could not be part of a path or header."""
        if re.fullmatch(r"[A-Za-z0-9_-]{1,128}", self.job_id):
            return self.job_id
        return hashlib.sha256(self.job_id.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def object_metadata(self) -> dict[str, str]:
        """The metadata and the job's id."""
        return {**self.metadata, "job-id": self.name}

    @property
    def disposition(self) -> str:
        """Let a browser show the file, and save it under a sensible name."""
        return f'inline; filename="{self.name}.{self.extension}"'


class Storage(Protocol):
    """Where results go."""

    async def store(self, file: StoredFile) -> str:
        """Store `file` and return its link.

        Raises:
            StorageError: It could not be stored; the sentence names no bucket or host.
        """
