"""optimum-cli export florence-edge, found by optimum in its namespace optimum.commands.register."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class FlorenceEdgeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum is Any
    """`florence-export` with the model and the folder where optimum's commands have them."""

    COMMAND = CommandInfo(
        name="florence-edge", help="Export Florence-2 to ONNX with florence-edge."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare what the command takes."""
        from florence_edge_export.cli import add_options

        parser.add_argument(
            "-m", "--model", required=True, help="hub id, checkpoint folder, or 'miniature'"
        )
        parser.add_argument("output", type=Path, help="where the exported folder goes")
        add_options(parser)

    def run(self) -> None:
        """Export, and end the program with the exit status."""
        from florence_edge_export.cli import export_parsed

        sys.exit(export_parsed("optimum-cli export florence-edge", self.args))


REGISTER_COMMANDS = [(FlorenceEdgeExportCommand, ExportCommand)]
