"""The bare servers outside containers: on the machine's own network and disk, without overlay, bridge or filter of system calls. It knows no server.

Their files are those of the images, for the machine need not have the same release; a namespace of processes is there only so that all of them end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.stacks import Bench
from stackctl import inventory
from stackctl.errors import CheckFailed
from stackctl.labels import LABEL

_TICKS = os.sysconf("SC_CLK_TCK")
# Mounts end with the namespace; the mail is where MTA and store both see it.
_INSIDE = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/var/vmail" && root=$1 && shift 2 && exec chroot "$root" "$@"'


@dataclass(frozen=True)
class Native:
    """A server that runs: its root folder, and the process that began it."""

    root: Path
    began: subprocess.Popen[bytes]

    def run(self, argv: list[str]) -> tuple[int, str]:
        """Runs a program in the server's root folder; exit status and output."""
        done = subprocess.run(["chroot", str(self.root), *argv], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def logs(self) -> str:
        """What the server said so far."""
        return (self.root / "log").read_text(encoding="utf-8", errors="replace")

    def ended(self) -> str | None:
        """Why it will not answer, None while it runs."""
        return None if self.began.poll() is None else f"exited ({self.began.returncode})"

    def processor(self) -> float:
        """Processor seconds of all its processes so far, of those that have ended too."""
        ours = os.readlink(f"/proc/{self._first()}/ns/pid")
        ticks = 0
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended since
                if os.readlink(folder / "ns" / "pid") == ours:
                    ticks += sum(map(int, (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:15]))  # proc_pid_stat(5): utime to cstime
        return ticks / _TICKS

    def _first(self) -> str:
        """The first process of the namespace."""
        children = Path(f"/proc/{self.began.pid}/task/{self.began.pid}/children").read_text(encoding="utf-8").split()
        return children[0]


@contextlib.contextmanager
def started(bench: Bench, root: Path, image: str, about: Mapping[str, Any], files: Mapping[str, bytes], mail: Path) -> Iterator[Native]:
    """A server of an image on this machine, in the new folder `root`, with its mail in the folder `mail`. Raises CheckFailed where this process is not root."""
    if os.geteuid() != 0:
        raise CheckFailed("servers outside containers need root")
    _unpack(bench, image, root)
    if not mail.exists():  # with the owner that it has in a new volume
        mail.mkdir(mode=0o700)
        owner = (root / "var" / "vmail").stat()
        os.chown(mail, owner.st_uid, owner.st_gid)
    (root / "bare").mkdir()
    for name, content in files.items():
        (root / "bare" / name).write_bytes(content)
        (root / "bare" / name).chmod(0o755)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n", encoding="utf-8")
    with (root / "log").open("ab") as log:
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSIDE, "-", str(root), str(mail), *about["run"]]
        began = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Native(root, began)
    finally:
        os.killpg(began.pid, signal.SIGKILL)
        began.wait()


def _unpack(bench: Bench, image: str, root: Path) -> None:
    """The files of an image, in a folder."""
    api = inventory.client().api
    with bench.removed(bench.name("unpacked")) as name:
        made = api.create_container(image, entrypoint="true", labels={LABEL: name}, network_disabled=True)
        packed = root.with_suffix(".tar")
        with inventory.translated(), packed.open("wb") as out:
            for chunk in api.export(made["Id"]):
                out.write(chunk)
        with tarfile.open(packed) as archive:
            archive.extractall(root, numeric_owner=True)  # the images are our own
        packed.unlink()
