"""The command `python -m infra.stack`: a team's stack on this machine, without containers."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from infra.stack import supervise
from infra.stack.layout import FOLDER, ROLES, Layout, Secret
from wsss.errors import UserError
from wsss.failures import ended


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the stack is [{FOLDER}]")
    commands = parser.add_subparsers(dest="name", required=True)
    starting = commands.add_parser("start", help="start it, and wait until it is healthy")
    starting.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(supervise.NAMES)}; all")
    starting.add_argument("--port", action="append", default=[], metavar="NAME=NUMBER", help="another port; it stays")
    starting.add_argument("--model", default="", metavar="models:/NAME@champion", help="what is served")
    starting.add_argument("--upgrade", action="store_true", help="bring an older database to this MLflow")
    commands.add_parser("status", help="what runs, and where")
    logging = commands.add_parser("logs", help="the end of a service's log")
    logging.add_argument("service", nargs="?", default="")
    logging.add_argument("--lines", type=int, default=20)
    stopping = commands.add_parser("stop", help="end it, in order")
    stopping.add_argument("services", nargs="*", metavar="SERVICE")
    cleaning = commands.add_parser("clean", help="remove it, with everything that it holds")
    cleaning.add_argument("--yes", action="store_true", help="do not ask")
    variables = commands.add_parser("env", help="the variables of a role, for a shell to read")
    variables.add_argument("--role", default="researcher", metavar="ROLE", choices=list(ROLES), help=", ".join(ROLES))
    options = parser.parse_args(arguments)
    layout = Layout(options.folder.resolve())
    match options.name:
        case "start":
            ports = dict(map(_port, options.port))
            supervise.start(layout, options.services, ports, options.model, options.upgrade)
        case "status":
            return supervise.status(layout)
        case "logs":
            supervise.logs(layout, options.service, options.lines)
        case "stop":
            supervise.stop(layout, options.services)
        case "clean":
            if not options.yes:
                _ask(layout)
            supervise.clean(layout)
        case "env":
            for name, value in layout.variables(options.role).items():
                print(f"export {name}={value.expression() if isinstance(value, Secret) else shlex.quote(value)}")
    return 0


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal() or not 1024 <= int(number) <= 65535:
        raise UserError(f"--port {text} is none; write NAME=NUMBER, with a number from 1024 to 65535")
    return name, int(number)


def _ask(layout: Layout) -> None:
    if not sys.stdin.isatty():
        raise UserError("clean removes every run, model and label map of this stack; --yes says that you mean it")
    if input(f"remove {layout.folder}, with every run, model and label map in it? [y/N] ").strip().lower() != "y":
        raise UserError("nothing was removed")


if __name__ == "__main__":
    sys.exit(ended("infra.stack", main))
