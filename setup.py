"""Package layout: `export/` installs as `masters_edge.export`, `benchmarks/` as `masters_edge.benchmarks`.

`export/optimum_register/` becomes a part of the namespace that Optimum's command line looks through for commands.
"""

from setuptools import find_packages, setup

ROOMS = {"masters_edge": "masters_edge", "masters_edge.export": "export", "masters_edge.benchmarks": "benchmarks"}
COMMANDS = {"optimum.commands.register": "export/optimum_register"}


def packages() -> list[str]:
    """Each room and its subpackages, under the name it is imported by."""
    return [name for room, folder in ROOMS.items() for name in (room, *(f"{room}.{p}" for p in find_packages(folder)))]


setup(packages=[*packages(), *COMMANDS], package_dir=ROOMS | COMMANDS)
