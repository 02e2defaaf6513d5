"""Versions of what is installed here."""

from importlib import metadata


def own() -> str:
    """This masters-edge's."""
    return metadata.version("masters-edge")


def installed(*packages: str) -> dict[str, str]:
    """Installed versions of those of the named packages that are installed, without importing them."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
