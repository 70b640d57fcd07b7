"""The output formats and their names."""

from kontext.contract.output_format import OutputFormat


def test_every_format_has_its_usual_names() -> None:
    """Stores and browsers know a file by its content type and its ending."""
    names = [(kind, kind.content_type, kind.extension) for kind in OutputFormat]

    assert names == [
        ("png", "image/png", "png"),
        ("jpeg", "image/jpeg", "jpg"),
        ("webp", "image/webp", "webp"),
    ]
