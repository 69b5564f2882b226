# SPDX-License-Identifier: LGPL-2.1-or-later
"""enter_vm.py SSH_CONFIG HOST COMMAND...: runs COMMAND in a host that is reached through ssh.

ssh passes signals on only as a terminal's control characters: without a terminal they are sent by a second command.
"""

import os
import shlex
import signal
import subprocess
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
KEPT = ("NO_COLOR", "http_proxy", "https_proxy", "no_proxy")


def main() -> int:
    ssh = ["ssh", "-F", sys.argv[1]]
    host, command = sys.argv[2], sys.argv[3:]
    kept = [f"{key}={os.environ[key]}" for key in KEPT if key in os.environ]
    assignments = shlex.join(["LANG=C.UTF-8", *kept])
    line = f"exec env {assignments} {shlex.join(command)}"
    if os.isatty(0) and os.isatty(1):
        os.execvp("ssh", [*ssh, "-tt", host, line])

    note = f"/run/host-run.{os.getpid()}"
    child = None

    def forward(number: int, _frame: object) -> None:
        # The note may not be there yet.
        script = f"for try in 1 2 3 4 5 6 7 8 9 10; do test -s {note} && break; sleep 0.1; done; kill -{number} -- -$(cat {note})"
        subprocess.run([*ssh, host, script], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    for number in FORWARDED:
        signal.signal(number, forward)
    # sshd makes the command's shell the leader of a session, and so of a process group.
    line = f"echo $$ >{note}; trap 'rm -f {note}' EXIT; {line.removeprefix('exec ')}"
    child = subprocess.Popen([*ssh, "-T", host, line], process_group=0) if sys.version_info >= (3, 11) else None
    if child is None:
        child = subprocess.Popen([*ssh, "-T", host, line], preexec_fn=os.setpgrp)  # noqa: PLW1509
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
