"""Says what can be run: `python -m kontext`."""

import argparse

from kontext import __version__

PROGRAMS = """
programs:
  python handler.py          the worker: in the container image, or on one test job
  python -m kontext.demo     one edit on this machine, from job to saved image
  python -m kontext.local    Runpod's API on this machine, with workers behind it

Each has --help. In a checkout, `make help` lists the other commands, and README.md and docs/ say
how to use and deploy them.
"""


def main() -> None:
    """Print what can be run."""
    parser = argparse.ArgumentParser(
        prog="python -m kontext",
        description="Self-hosted FLUX.1 Kontext [dev] image editing behind Runpod's contract.",
        epilog=PROGRAMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kontext {__version__}")
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
