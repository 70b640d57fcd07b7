"""Settings: their names and ranges, and which values go together."""

import pytest

from kontext.contract.size import Size
from kontext.errors import SettingsError
from kontext.settings import Settings


def test_the_environment_is_read_by_capital_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field is the environment variable of its name; lists are comma-separated."""
    monkeypatch.setenv("USD_PER_IMAGE", "0.025")
    monkeypatch.setenv("STAND_IN", "model, safety")
    monkeypatch.setenv("FETCH_ALLOWED_NETWORKS", "127.0.0.0/8,fd00::/8")
    monkeypatch.setenv("FETCH_ALLOWED_PORTS", "80,9000")
    settings = Settings.load()

    assert settings.usd_per_image == 0.025
    assert settings.stand_in == {"model", "safety"}
    assert [str(network) for network in settings.fetch_allowed_networks] == [
        "127.0.0.0/8",
        "fd00::/8",
    ]
    assert settings.fetch_allowed_ports == {80, 9000}


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runpod's Hub form sends empty strings for fields left blank."""
    monkeypatch.setenv("USD_PER_IMAGE", "")
    monkeypatch.setenv("BUCKET_NAME", "")

    assert Settings.load().usd_per_image is None
    assert Settings.load().bucket_name is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LINK_SECONDS", "604801"),
        ("LINK_SECONDS", "0"),
        ("STAND_IN", "gpu"),
        ("SAFETY_THRESHOLD", "nan"),
        ("USD_PER_MEGAPIXEL", "-1"),
        ("MIN_GENERATION_MEGAPIXELS", "-1"),
        ("MAX_GENERATION_MEGAPIXELS", "nan"),
        ("TRUE_CFG_SCALE", "1"),
        ("FETCH_ALLOWED_NETWORKS", "10.0.0.1/8"),
        ("FETCH_ALLOWED_PORTS", "80,x"),
        ("BUCKET_KEY_PREFIX", "a b"),
        ("PUBLIC_BASE_URL", "cdn.example.com"),
    ],
)
def test_a_wrong_value_fails_by_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deployer reads the variable's name first."""
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=f"^{variable} "):
        Settings.load()


def test_keys_go_together() -> None:
    """A key without its secret is a mistake, and no reason to use other AWS credentials."""
    with pytest.raises(SettingsError, match="BUCKET_SECRET_ACCESS_KEY go together"):
        Settings.load(bucket_access_key_id="key")


def test_sides_must_agree() -> None:
    """No size fits limits of which the lower is above the upper."""
    with pytest.raises(SettingsError, match="MIN_SIDE must not exceed MAX_SIDE"):
        Settings.load(min_side=2000, max_side=1000)


@pytest.mark.parametrize("size", [Size(256, 256), Size(2368, 2368)], ids=str)
def test_both_generation_areas_are_switched_off_by_0(
    size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then every size is generated as it is, and memory is planned for the largest."""
    assert Settings.load().areas.generated(size) != size
    assert Settings.load().largest_generated == Size(1456, 1456)
    monkeypatch.setenv("MIN_GENERATION_MEGAPIXELS", "0")
    monkeypatch.setenv("MAX_GENERATION_MEGAPIXELS", "0")

    assert Settings.load().areas.generated(size) == size
    assert Settings.load().largest_generated == Size(2368, 2368)


def test_generation_areas_must_agree() -> None:
    """Every size would be outside of one of them; 0 means no limit."""
    with pytest.raises(SettingsError, match="MIN_GENERATION_MEGAPIXELS must not exceed MAX"):
        Settings.load(min_generation_megapixels=2.0, max_generation_megapixels=1.0)
    assert Settings.load(min_generation_megapixels=2.0, max_generation_megapixels=0)


def test_a_secret_is_never_shown() -> None:
    """Neither the settings nor an error about them contain the secret."""
    settings = Settings.load(bucket_access_key_id="key", bucket_secret_access_key="hidden")
    with pytest.raises(SettingsError) as refused:
        Settings.load(bucket_secret_access_key="hidden")

    assert "hidden" not in repr(settings)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("variable", ["RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_ENDPOINT_ID"])
def test_runpods_environment_means_production(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With either of Runpod's variables no stand-in is used automatically."""
    assert not Settings.load().production
    monkeypatch.setenv(variable, "x")
    assert Settings.load().production


@pytest.mark.parametrize(("old", "new"), Settings.renamed().items())
def test_a_renamed_variable_is_read_by_its_old_name(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment that is not changed keeps its values; if both are set, the new one counts."""
    monkeypatch.setenv(old, "7")
    assert getattr(Settings.load(), new.lower()) == 7

    monkeypatch.setenv(new, "5")
    assert getattr(Settings.load(), new.lower()) == 5


def test_a_wrong_value_of_an_old_name_fails_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deployer finds the variable by its old name and reads the new one."""
    monkeypatch.setenv("TAKE_AHEAD_SECONDS", "-1")

    with pytest.raises(SettingsError, match=r"^PREFETCH_SECONDS \(once TAKE_AHEAD_SECONDS\) "):
        Settings.load()
