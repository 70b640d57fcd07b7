"""The fields of a job's `s3Config`, which stands beside `input` and names the caller's own bucket.

Knows the fields and their rules; does not know S3 or networks.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from kontext.errors import InvalidRequest

Printable = Annotated[StrictStr, Field(pattern=r"^[!-~]{1,1024}$", repr=False)]
BucketName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,62}$")]


class S3Config(BaseModel):
    """A caller's bucket, and the credentials for it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    accessId: Printable  # noqa: N815 - Runpod's name
    accessSecret: Printable  # noqa: N815 - Runpod's name
    bucketName: BucketName  # noqa: N815 - Runpod's name
    endpointUrl: Printable  # noqa: N815 - Runpod's name

    @classmethod
    def parse(cls, data: object) -> Self:
        """Read a job's `s3Config`.

        Raises:
            InvalidRequest: A field is missing or wrong; the sentence names it, never its value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fields = {str(e["loc"][0]) if e["loc"] else "it" for e in error.errors()}
            raise InvalidRequest(
                f"s3Config needs {_listed(cls)} as strings; "
                f"missing or wrong: {', '.join(sorted(fields))}"
            ) from None


def _listed(model: type[BaseModel]) -> str:
    *names, last = model.model_fields
    return f"{', '.join(names)} and {last}"
