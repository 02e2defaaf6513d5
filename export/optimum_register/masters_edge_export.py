"""`optimum-cli export edge`: `masters-edge export` for those who live in Optimum.

Optimum finds this file by its place, the namespace `optimum.commands.register`; setup.py installs it there. In: the
command line. Out: what `masters-edge export` writes, says and exits with, since that command is what runs. The options
are read off it too, so there is one list of them.
"""

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

_PREFIX = "masters_edge_"
# Said here by --model and OUT; and `--run` chooses among masters-edge's own runs, which have a student each.
_OWN = {"student", "out", "run"}


class EdgeExportCommand(BaseOptimumCLICommand):
    """`optimum-cli export edge --target T --model STUDENT OUT`."""

    COMMAND = CommandInfo(name="edge", help="Export a vision-language student to edge devices (masters-edge).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.description = (
            "Write a student in a device's file format, checked against PyTorch on real samples. "
            "Example: optimum-cli export edge --target onnx --quant int4 --model ./student ./bundles"
        )
        parser.add_argument("-m", "--model", required=True, help="Student: a folder saved by transformers.")
        parser.add_argument("output", metavar="OUT", help="Folder for the bundles, one for each target and scheme.")
        for option in _options():
            how: dict[str, Any] = {"action": "store_true"}
            if not option.is_flag:
                how = {"action": "append", "metavar": "VALUE"}
            parser.add_argument(*option.opts, dest=_PREFIX + option.name, help=_plain(option.help), **how)

    def run(self) -> None:
        assert self.args is not None
        command = [sys.executable, "-m", "masters_edge", "export", "--student", self.args.model]
        command += ["--out", self.args.output]
        for option in _options():
            given = getattr(self.args, _PREFIX + option.name)
            if option.is_flag:
                command += option.opts[:1] if given else []
            else:
                command += [word for value in given or [] for word in (option.opts[0], value)]
        sys.exit(subprocess.run(command, check=False).returncode)


def _options() -> Iterator:
    """The options of `masters-edge export` but those that are said otherwise here."""
    import typer.main

    from masters_edge.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for option in commands["export"].params:
        if option.param_type_name == "option" and option.name not in _OWN and "--help" not in option.opts:
            yield option


def _plain(text: str | None) -> str:
    """argparse reads a percent sign as the start of a format."""
    return (text or "").replace("%", "%%")


REGISTER_COMMANDS = [(EdgeExportCommand, ExportCommand)]
