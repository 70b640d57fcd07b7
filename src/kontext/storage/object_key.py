"""The keys under which results are stored.

Pure: does not know buckets, links or settings.
"""

import hashlib
import re
import secrets


def object_key(job_id: str, extension: str, prefix: str = "", *, is_public: bool = False) -> str:
    """Return the key of a job's result.

    Args:
        job_id: The job's id; the same id gives the same key, unless `is_public`.
        extension: The file name's extension, without the dot.
        prefix: The beginning of the key.
        is_public: Whether anyone who knows the key can read the object: then 128 random bits
            protect it in place of a signature.
    """
    name = secrets.token_hex(16) if is_public else safe_name(job_id)
    return f"{prefix}{name}.{extension}"


def safe_name(job_id: str) -> str:
    """Return the job's id, or its SHA-256 if the id cannot be part of a path or header."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,128}", job_id):
        return job_id
    return hashlib.sha256(job_id.encode("utf-8", "surrogatepass")).hexdigest()
