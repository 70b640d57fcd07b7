"""The file that a worker hands to its storage, and what it expects of a storage."""

from dataclasses import dataclass
from typing import Protocol

from kontext.storage.object_key import safe_name


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result to store.

    Attributes:
        job_id: The job's id, which names the object: a job that runs twice overwrites its result.
        extension: The file name's extension, without the dot.
        content: The bytes.
        content_type: The MIME type that the store answers with.
        metadata: The object's `x-amz-meta-*` fields, ASCII only.
    """

    job_id: str
    extension: str
    content: bytes
    content_type: str
    metadata: dict[str, str]

    @property
    def name(self) -> str:
        """The job's id, as it can be part of a path or header."""
        return safe_name(self.job_id)

    @property
    def object_metadata(self) -> dict[str, str]:
        """The metadata with the job's id."""
        return {**self.metadata, "job-id": self.name}

    @property
    def disposition(self) -> str:
        """The `Content-Disposition`: a browser shows the file, and saves it under its name."""
        return f'inline; filename="{self.name}.{self.extension}"'


class Storage(Protocol):
    """Stores results."""

    async def store(self, file: ResultFile) -> str:
        """Store `file` and return a link to it.

        Raises:
            StorageError: The file could not be stored; the sentence names no bucket or host.
        """
