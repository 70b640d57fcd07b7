"""Fetches a model's weights from the Hugging Face Hub while the image is built.

Needs only `huggingface_hub`, which also finds the token for a gated model (in HF_TOKEN or in the
file that HF_TOKEN_PATH names). An error fails the build with one sentence.
"""

import argparse
import fnmatch
import sys
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


class FetchFailed(Exception):
    """Raised with the reason why a model was not fetched, for the person who builds the image."""


def fetch(repository: str, revision: str, into: Path, patterns: list[str]) -> Path:
    """Fetch the files of `repository` that match `patterns` into a directory of its name.

    Returns:
        The directory, in which the commit is recorded beside the files.

    Raises:
        FetchFailed: The model was not fetched; its sentence says why, and what to do.
    """
    directory = into / repository.rpartition("/")[2]
    try:
        snapshot_download(
            repository, revision=revision, local_dir=directory, allow_patterns=patterns
        )
    except (OSError, HFValidationError) as error:
        raise FetchFailed(_reason(repository, revision, error)) from error
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*")]
    if missing := [pattern for pattern in patterns if not fnmatch.filter(files, pattern)]:
        raise FetchFailed(f"{repository} at {revision} holds no {', '.join(missing)}")
    return directory


def _reason(repository: str, revision: str, error: Exception) -> str:
    """Return one sentence for an error of `huggingface_hub`."""
    page = f"https://huggingface.co/{repository}"
    match error:
        case GatedRepoError():
            return (
                f"{repository} is gated: accept its licence at {page} and give the build the "
                "token of that account (--secret id=HF_TOKEN,env=HF_TOKEN)"
            )
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision}"
        case RepositoryNotFoundError():
            return f"{repository} does not exist, or the build's HF_TOKEN may not see it"
        case HfHubHTTPError() if error.response.status_code in {401, 403}:
            return f"the Hub refused the build's HF_TOKEN for {repository}"
        case HfHubHTTPError():
            return f"the Hub answered {error.response.status_code} for {repository}"
        case HFValidationError():
            return f"{repository} is not the name of a model (organisation/name)"
        case OSError(__cause__=Exception() as cause):
            return _reason(repository, revision, cause)
        case _:
            return f"{repository} could not be fetched: {' '.join(str(error).split())}"


def main() -> None:
    """Fetch what the command line names, and print the directory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("repository", help="organisation/name on the Hub")
    parser.add_argument("revision", help="commit, so that the same build gives the same image")
    parser.add_argument("patterns", nargs="+", help="files to fetch; each must match one at least")
    parser.add_argument("--into", type=Path, default=Path("/models"), help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        print(fetch(arguments.repository, arguments.revision, arguments.into, arguments.patterns))
    except FetchFailed as error:
        sys.exit(f"Weights not fetched: {error}")


if __name__ == "__main__":
    main()
