"""The file formats in which a result can be delivered, each with its name in every place.

A new member needs an encoder in `kontext.images.encode`, which refuses to be imported without it.
"""

from enum import StrEnum


class OutputFormat(StrEnum):
    """A file format, by its name in the contract."""

    PNG = "png"
    JPEG = "jpeg"

    @property
    def content_type(self) -> str:
        """The MIME type."""
        return f"image/{self.value}"

    @property
    def extension(self) -> str:
        """The ending of a file's name, without the dot."""
        return {OutputFormat.JPEG: "jpg"}.get(self, self.value)
