"""Reads the environment variables into one frozen `Settings`; an error names the variable.

Each setting's name, default, range and meaning are written only here; the table in docs/settings.md
and the Hub form are checked against them. Opens no file and no connection.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from kontext.comma_separated import CommaSeparated, Networks
from kontext.contract.fields import limited, maximum
from kontext.contract.pricing import USD_PER_MEGAPIXEL, Pricing
from kontext.contract.request import DEFAULT_SAFETY_TOLERANCE, EditRequest
from kontext.contract.size import (
    DEFAULT_AREAS,
    DEFAULT_SIDES,
    MEGAPIXEL,
    AreaLimits,
    SideLimits,
    Size,
)
from kontext.errors import SettingsError

MAX_LINK_SECONDS = 604_800
"""7 days: the documented life of a link, and the most that SigV4 allows."""

STOP_TIMEOUT_SECONDS = 30.0
"""How long an edit may take to stop; longer than any step of an edit."""

UPLOAD_TIMEOUT_SECONDS = 60.0
"""A choice: the largest PNG, 17 MB, at 0.3 MB/s."""

StandIn = Literal["model", "safety", "bucket"]
Mode = Literal["exact", "fast", "turbo"]
"""How an edit is computed; `kontext.inference.mode` says what each name means."""

ModeSetting = Literal["auto", Mode]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Everything that a deployer can set; the environment variable has the name in capitals."""

    model_config = SettingsConfigDict(
        validate_by_name=True,
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    model_path: str | None = Field(
        default=None, description="Directory of the weights; overrides the search for them."
    )
    model_id: str = Field(
        default="black-forest-labs/FLUX.1-Kontext-dev",
        description="Hub name of the weights in Runpod's model cache, a volume or the image.",
    )
    mode: ModeSetting = Field(
        default="auto",
        description="`exact` (bfloat16), `fast` (8 bits), `turbo` (`fast`, with half of the steps "
        "predicted), or `auto`: `fast` where the card computes float8 or cannot hold `exact`.",
    )
    true_cfg_scale: float = Field(
        default=2.5,
        gt=1,
        le=20,
        description="Scale of true classifier-free guidance, used with a negative prompt.",
    )
    stand_in: CommaSeparated[frozenset[StandIn]] = Field(
        default=frozenset(),
        description="Parts replaced by a stand-in, comma-separated: `model`, `safety`, `bucket`. "
        "Off Runpod, a part that is missing falls back to a stand-in automatically.",
    )
    safety_model_path: str = Field(
        default="/models/nsfw_image_detection",
        description="Directory of the Falconsai/nsfw_image_detection classifier.",
    )
    safety_threshold: float = Field(
        default=0.85,
        gt=0,
        le=1,
        description="Probability from which the classifier flags an image "
        "(Black Forest Labs' own filter uses 0.85).",
    )
    safety_second_opinion_path: str | None = Field(
        default=None,
        description="Directory of the Stable Diffusion safety checker; when set, it must agree "
        "before an image is refused.",
    )
    max_steps: int = Field(
        default=round(maximum("num_inference_steps")),
        ge=maximum("num_inference_steps"),
        le=100,
        description="Most `num_inference_steps` that a request may ask for; Runpod documents "
        f"{maximum('num_inference_steps'):g}.",
    )
    max_guidance: float = Field(
        default=maximum("guidance"),
        ge=maximum("guidance"),
        le=24,
        description="Highest `guidance` that a request may ask for; Runpod documents "
        f"{maximum('guidance'):g}.",
    )
    max_safety_tolerance: int = Field(
        default=round(maximum("safety_tolerance")),
        ge=DEFAULT_SAFETY_TOLERANCE,
        le=maximum("safety_tolerance"),
        description="Highest `safety_tolerance` that a request may ask for.",
    )
    min_side: int = Field(
        default=DEFAULT_SIDES.shortest, ge=16, le=4096, description="Shortest side, in pixels."
    )
    max_side: int = Field(
        default=DEFAULT_SIDES.longest, ge=16, le=4096, description="Longest side, in pixels."
    )
    min_generation_megapixels: float = Field(
        default=DEFAULT_AREAS.smallest / MEGAPIXEL,
        ge=0,
        le=17,
        description="A smaller size is generated at this area and then scaled down; 0 generates "
        "every size as it is.",
    )
    max_generation_megapixels: float = Field(
        default=DEFAULT_AREAS.largest / MEGAPIXEL,
        ge=0,
        le=17,
        description="A larger size is generated at this area and then scaled up; 0 generates "
        "every size as it is.",
    )
    usd_per_megapixel: float = Field(
        default=USD_PER_MEGAPIXEL,
        ge=0,
        description="Rate of `cost`, per decimal megapixel delivered.",
    )
    usd_per_image: float | None = Field(
        default=None, ge=0, description="Flat `cost` of an image; overrides the rate."
    )
    fetch_allowed_networks: Networks = Field(
        default=(),
        description="Private networks that images and `s3Config` may name, comma-separated; "
        "for development.",
    )
    fetch_allowed_ports: CommaSeparated[frozenset[Port]] = Field(
        default=frozenset({80, 443}), description="Ports that those URLs may name."
    )
    prefetch_seconds: float = Field(
        validation_alias=AliasChoices("prefetch_seconds", "take_ahead_seconds"),
        default=1.0,
        ge=0,
        le=60,
        description="How long before the GPU is free the next job is prefetched, so that its image "
        "is ready; 0 prefetches none.",
    )
    stop_timeout_seconds: float = Field(
        validation_alias=AliasChoices("stop_timeout_seconds", "stop_seconds"),
        default=STOP_TIMEOUT_SECONDS,
        gt=0,
        le=3600,
        description="What an edit that was cancelled or timed out gets to end its step; a worker "
        "whose edit takes longer hangs, and ends.",
    )
    shutdown_seconds: float = Field(
        default=90.0,
        ge=0,
        le=3600,
        description="What a worker that must end (SIGTERM, a lost GPU, a hanging edit) gets to "
        "finish the jobs that it holds; what is not done by then fails.",
    )
    max_internal_errors: int = Field(
        validation_alias=AliasChoices("max_internal_errors", "most_internal_errors"),
        default=3,
        ge=0,
        description="After so many internal errors, with no success in between, the worker asks "
        "to be replaced; 0 never.",
    )
    bucket_endpoint_url: str | None = Field(
        default=None,
        description="S3 endpoint, else `AWS_ENDPOINT_URL`, else AWS; a virtual-host URL such as "
        "`https://bucket.s3.region.amazonaws.com` also names bucket and region.",
    )
    bucket_name: str | None = Field(default=None, description="Bucket for the results.")
    bucket_region: str | None = Field(
        default=None, description="Its region; else the endpoint's, `AWS_REGION`, or `us-east-1`."
    )
    bucket_access_key_id: str | None = Field(
        default=None, description="Access key; without it the usual `AWS_*` chain is asked."
    )
    bucket_secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of that key."
    )
    bucket_addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto", description="`auto`: virtual host on AWS, path elsewhere."
    )
    bucket_key_prefix: str = Field(
        default="kontext/", pattern=r"^[A-Za-z0-9/_-]*$", description="What every key begins with."
    )
    link_seconds: int = Field(
        default=MAX_LINK_SECONDS, ge=1, le=MAX_LINK_SECONDS, description="Life of a presigned link."
    )
    upload_timeout_seconds: float = Field(
        validation_alias=AliasChoices("upload_timeout_seconds", "upload_seconds"),
        default=UPLOAD_TIMEOUT_SECONDS,
        gt=0,
        le=3600,
        description="What an upload may take in all, retries included, before its job fails.",
    )
    public_base_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="A CDN in front of the bucket: links point there, with a random key, "
        "in place of presigning.",
    )
    compile_cache: str | None = Field(
        default=None,
        pattern=r"^(/.+|bucket:[A-Za-z0-9/_-]*)$",
        description="Keeps the transformer's compiled code for the endpoint's other workers: in a "
        "directory on a network volume such as `/runpod-volume/compiled`, or "
        "`bucket:compiled/`, a prefix in the bucket.",
    )
    compile_cache_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Signs that code, which later workers run; at least 16 characters, such as "
        "from `openssl rand -hex 32`. Without it nothing is kept or loaded.",
    )
    runpod_webhook_get_job: str | None = Field(default=None, exclude=True)
    runpod_endpoint_id: str | None = Field(default=None, exclude=True)

    @classmethod
    def renamed(cls) -> dict[str, str]:
        """Return the new name of each environment variable that was renamed, by its old name.

        An old name is read for one release; if both are set, the new one counts.
        """
        aliases = (field.validation_alias for field in cls.model_fields.values())
        names = (alias.choices for alias in aliases if isinstance(alias, AliasChoices))
        return {str(old).upper(): str(new).upper() for new, *others in names for old in others}

    @classmethod
    def load(cls, **overrides: Any) -> Self:  # noqa: ANN401 - any field, by name
        """Read the environment.

        Args:
            overrides: Fields by name, in place of the environment's.

        Raises:
            SettingsError: Values are wrong; its sentence names each variable and the rule.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_problem, error.errors()))) from None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError("MIN_SIDE must not exceed MAX_SIDE")
        if 0 < self.max_generation_megapixels < self.min_generation_megapixels:
            raise ValueError("MIN_GENERATION_MEGAPIXELS must not exceed MAX_GENERATION_MEGAPIXELS")
        if (self.bucket_access_key_id is None) != (self.bucket_secret_access_key is None):
            raise ValueError("BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY go together")
        return self

    @property
    def request(self) -> type[EditRequest]:
        """The fields of a job's `input`, in the ranges that this worker accepts."""
        return limited(
            num_inference_steps=self.max_steps,
            guidance=self.max_guidance,
            safety_tolerance=self.max_safety_tolerance,
        )

    @property
    def pricing(self) -> Pricing:
        """What a delivered image costs."""
        return Pricing(self.usd_per_megapixel, self.usd_per_image)

    @property
    def sides(self) -> SideLimits:
        """The limits of the sizes that this worker delivers."""
        return SideLimits(self.min_side, self.max_side)

    @property
    def areas(self) -> AreaLimits:
        """The limits of the areas that the model generates."""
        return AreaLimits(
            self.min_generation_megapixels * MEGAPIXEL,
            self.max_generation_megapixels * MEGAPIXEL or math.inf,
        )

    @property
    def largest_generated(self) -> Size:
        """The largest size that is ever generated; the memory is planned for it."""
        return self.areas.generated(Size(self.max_side, self.max_side)).grid

    @property
    def production(self) -> bool:
        """Whether Runpod started this process; then no stand-in is used automatically."""
        return bool(self.runpod_webhook_get_job or self.runpod_endpoint_id)


def _problem(error: ErrorDetails) -> str:
    rule = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not error["loc"]:
        return rule
    name = str(error["loc"][0]).upper()
    old = next((old for old, new in Settings.renamed().items() if new == name), None)
    return f"{name} (once {old}) {rule}" if old else f"{name} {rule}"
