"""The file formats of results, with their MIME types and file extensions.

Does not encode: a new format also needs an encoder in `kontext.images.encode`, whose import fails
without it.
"""

from enum import StrEnum


class OutputFormat(StrEnum):
    """A file format; its value is its name in the contract."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def content_type(self) -> str:
        """The MIME type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The file name extension, without the dot."""
        return {OutputFormat.JPEG: "jpg"}.get(self, self.value)
