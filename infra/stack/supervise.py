"""Starting a stack in order, looking at it, ending it in the reverse order."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout

from infra.stack import services as table
from infra.stack.layout import PORTS, Layout, resolved
from infra.stack.processes import Started
from infra.stack.services import Service
from wsss.errors import UserError, unknown

NAMES = ("postgres", "objects", "mlflow", "ray-head", "ray-worker", "serve", "dashboard")
_PORT_OPTION = "--port NAME=NUMBER"


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Of two commands that change a stack one waits."""
    layout.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(layout.folder / "lock", timeout=5):
            yield
    except Timeout:
        raise UserError(f"another command changes the stack in {layout.folder}; wait for it") from None


def start(
    layout: Layout,
    names: Sequence[str] = (),
    ports: Mapping[str, int] | None = None,
    model: str = "",
    upgrade: bool = False,
) -> None:
    """Start services and what they need; return when all are healthy.

    Args:
        layout: where.
        names: which; all by default.
        ports: those that differ.
        model: what is served; by default the champion that there is.
        upgrade: bring an older database to this MLflow's schema.

    Raises:
        UserError: all of it runs already, a port is taken, a part is not installed, or a service did not become well.
    """
    for name in names:
        if name not in NAMES:
            raise unknown("service", name, NAMES)
    for name in ports or {}:
        if name not in PORTS:
            raise unknown("port", name, PORTS)
    with _alone(layout):
        if ports and layout.there and (running := [n for n in NAMES if Started(layout, n).pid]):
            moved = [name for name, port in ports.items() if layout.ports[name] != port]
            if moved:
                raise UserError(
                    f"{', '.join(running)} run already, on other ports; stop the stack first, then start it"
                )
        layout.prepare(ports or {})
        listed = table.services(layout, model, upgrade)
        wanted = _with_needs(listed, names or NAMES)
        if all(Started(layout, each.name).pid for each in wanted if each.name != "serve"):
            without_server = "serve" in {each.name for each in wanted} and not Started(layout, "serve").pid
            if not (without_server and (names or model or table.champion(layout))):
                raise UserError(f"the stack in {layout.folder} runs already; `{layout.command('status')}` shows it")
        _check_ports(layout, wanted)
        for each in wanted:
            if each.name == "serve" and not Started(layout, "serve").pid:
                model = model or table.champion(layout)
                if not model:
                    print("serve       waits for a champion; promote one, then start again")
                    continue
                each = next(s for s in table.services(layout, model, upgrade) if s.name == "serve")
            _start(layout, each)
    print(f"\nfor a shell of yours:  {table.hint(layout)}")


def _with_needs(listed: Sequence[Service], names: Sequence[str]) -> list[Service]:
    wanted = set(names)
    for each in reversed(listed):
        if each.name in wanted:
            wanted |= set(each.needs)
    return [each for each in listed if each.name in wanted]


def _check_ports(layout: Layout, wanted: Sequence[Service]) -> None:
    for each in wanted:
        if Started(layout, each.name).pid:
            continue
        for name in each.ports:
            with socket.socket() as probe:
                # What a server that ended leaves behind for a minute is not taken.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", layout.ports[name]))
                except OSError:
                    again = layout.command("start", "--port", f"{name}={layout.ports[name] + 1}")
                    raise UserError(
                        f"port {layout.ports[name]}, which {name} is to have, is taken by another program; end that, "
                        f"or choose another: {again}"
                    ) from None


def _start(layout: Layout, service: Service) -> None:
    """Start a service that does not run, and wait until it is well and what follows is done."""
    process = Started(layout, service.name)
    if process.set_up and service.healthy():
        return
    began = time.monotonic()
    if not process.pid:
        process.end()  # what is left of one that died
        service.before()
        process.begin(service.words, resolved(service.variables), service.folder, service.user)
    while not service.healthy():
        if not process.pid:
            raise UserError(
                f"{service.name} ended while it started: {table.last_line(layout, service.name)}; all of it: "
                f"{layout.log(service.name)}"
            )
        if time.monotonic() - began > service.patience:
            raise UserError(
                f"{service.name} is not well after {service.patience:.0f} s; {layout.log(service.name)} says why"
            )
        time.sleep(0.2)
    for each in service.after:
        if callable(each):
            each()
        else:
            table.once(layout, service.name, *each)
    process.is_set_up()
    print(f"{service.name:<11} {_address(layout, service.name):<24} {time.monotonic() - began:.0f} s", flush=True)


def _address(layout: Layout, name: str) -> str:
    if name == "postgres":
        return f"127.0.0.1:{layout.ports[name]}"
    if name == "ray-head":
        return layout.address("ray-jobs")
    return layout.address(name) if name in layout.ports else ""


def status(layout: Layout) -> int:
    """Print a line for each service; 1 where one that was started is gone or not well, else 0."""
    bad = 0
    for each in table.services(layout):
        process = Started(layout, each.name)
        known = (layout.folder / "processes" / each.name).exists()
        if process.pid:
            state = "healthy" if each.healthy() else "runs, and does not answer"
        else:
            state = "died" if known else "not started"
        bad += state not in ("healthy", "not started")
        where = _address(layout, each.name) if process.pid else str(layout.log(each.name)) if known else ""
        print(f"{each.name:<11} {state:<26} {process.pid or '':<8} {where}")
    return int(bad > 0)


def stop(layout: Layout, names: Sequence[str] = ()) -> None:
    """End services, each before what it needs; all by default.

    Raises:
        UserError: there is no such service, or no stack.
    """
    for name in names:
        if name not in NAMES:
            raise unknown("service", name, NAMES)
    with _alone(layout):
        for each in reversed(table.services(layout)):
            if (not names or each.name in names) and Started(layout, each.name).end(each.stops_by):
                print(f"{each.name} ended", flush=True)


def logs(layout: Layout, name: str, lines: int) -> None:
    """Print the end of a service's log, or where all are."""
    if not name:
        for path in sorted((layout.folder / "logs").glob("*.log")):
            print(path)
        return
    if name not in NAMES:
        raise unknown("service", name, NAMES)
    if not layout.log(name).exists():
        raise UserError(f"{name} was never started in {layout.folder}")
    subprocess.run(["tail", "-n", str(lines), str(layout.log(name))], check=True)


def clean(layout: Layout) -> None:
    """Remove a stack with all that it holds.

    Raises:
        UserError: it runs, or is none.
    """
    if running := [name for name in NAMES if Started(layout, name).pid]:
        raise UserError(f"{', '.join(running)} run; end them first: {layout.command('stop')}")
    if not layout.there:
        raise UserError(f"there is no stack in {layout.folder}")
    shutil.rmtree(layout.ray_folder, ignore_errors=True)
    shutil.rmtree(layout.folder)
