# SPDX-License-Identifier: LGPL-2.1-or-later
"""enter_vm.py DIRECTORY HOST COMMAND...: runs COMMAND in a host that is reached through ssh.

ssh passes signals on only as a terminal's control characters: without a terminal they are sent by a second command.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SHUTDOWN_WORDS = ("reboot", "poweroff", "halt", "shutdown")
SHUTDOWN_LIMIT = 60.0
KEPT = ("NO_COLOR", "http_proxy", "https_proxy", "no_proxy")


def boots(console: Path) -> int:
    return console.read_bytes().count(b"SeaBIOS")


def wait_for_shutdown(directory: Path, ask: list[str]) -> None:
    """Return when a host that is going down has gone, so that the next run does not enter its remains."""
    console, ready = directory / "console.log", directory / "ready"
    before = boots(console)
    answer = subprocess.run(
        [*ask, "systemctl is-system-running"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if answer.returncode != 255 and b"stopping" not in answer.stdout:
        return
    end = time.monotonic() + SHUTDOWN_LIMIT
    while ready.exists() and boots(console) == before and time.monotonic() < end:
        time.sleep(0.1)


def run_without_terminal(ask: list[str], line: str) -> int:
    note = f"/run/host-run.{os.getpid()}"

    def forward(number: int, _frame: object) -> None:
        # sshd makes the command's shell the leader of a process group; its note may be a moment late.
        await_note = f"for i in 1 2 3 4 5 6 7 8 9; do test -s {note} && break; sleep 0.1; done"
        send = f"{await_note}; kill -{number} -- -$(cat {note})"
        subprocess.run([*ask, send], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    for number in FORWARDED:
        signal.signal(number, forward)
    # A group of its own: what a caller sends to its whole group must not end ssh.
    noted = f"echo $$ >{note}; trap : INT TERM HUP QUIT USR1 USR2; {line}; code=$?; rm -f {note}; exit $code"
    return subprocess.Popen([*ask, noted], start_new_session=True).wait()


def main() -> int:
    directory, host, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    ask = ["ssh", "-F", f"{directory}/ssh_config", host]
    console = directory / "console.log"
    before = boots(console)
    kept = [f"{key}={os.environ[key]}" for key in KEPT if key in os.environ]
    line = shlex.join(["env", "LANG=C.UTF-8", *kept, *command])
    if os.isatty(0) and os.isatty(1):
        code = subprocess.call([*ask[:-1], "-tt", host, f"exec {line}"])
    else:
        code = run_without_terminal(ask, line)
    if any(word in argument for argument in command for word in SHUTDOWN_WORDS):
        wait_for_shutdown(directory, ask)
    elif code == 255 and boots(console) != before:
        print(f"host: {host} was reset while it ran {command[0]} (log: {console})", file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
