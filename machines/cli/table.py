# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs and the global flags; a verb's module is imported when that verb is run, and no other."""

from __future__ import annotations

from typing import Any

from machines.cli import words
from machines.cli.options import Options

VERBS = {
    "create": ("create", "Make a machine: bootstrap its tree, write its settings and units"),
    "start": ("life", "Start machines and wait until they are ready"),
    "stop": ("life", "Power machines off in order"),
    "terminate": ("life", "End machines the hard way"),
    "restart": ("life", "Stop machines in order and start them again"),
    "pause": ("life", "Hold machines still where they are"),
    "resume": ("life", "Let machines go on that are paused"),
    "enable": ("life", "Start machines at boot"),
    "disable": ("life", "No longer start machines at boot"),
    "shell": ("enter", "Open a shell in a machine"),
    "exec": ("enter", "Run a command in a machine; its exit status is machctl's"),
    "logs": ("logs", "Show the journals of machines, merged by time"),
    "list": ("look", "List machines"),
    "status": ("look", "Show how machines are doing"),
    "show": ("look", "Show all that is known of machines, for programs"),
    "health": ("health", "Show whether machines do their work, and what their last probes said"),
    "wait": ("health", "Wait until machines run, are healthy, are stopped or have an address"),
    "probe": ("health", ""),
    "cat": ("look", "Show the files that were rendered for a machine"),
    "top": ("watch", "Show what machines use, as it changes"),
    "stats": ("watch", "Show what machines use, for programs too"),
    "events": ("events", "Show what happened to machines, and what happens"),
    "metrics": ("watch", "Print what machines use for Prometheus"),
    "set": ("change", "Change limits of a machine, now and for good"),
    "publish": ("publish", "Let ports of a machine answer on the host, and start it by them"),
    "unpublish": ("publish", "Let ports of a machine answer no more"),
    "port": ("publish", "List who answers where"),
    "rm": ("change", "Remove machines with all that was made for them"),
    "clone": ("copies", "Copy a machine; the copy has an identity of its own"),
    "rename": ("copies", "Call a machine by another name"),
    "snapshot": ("snapshot", "Keep how machines are: create, ls, rm, diff"),
    "restore": ("copies", "Let a machine be what it was"),
    "diff": ("copies", "Show what changed in a machine, or what of the fleet differs from the files"),
    "run": ("run", "Run a command in a machine that is gone when it ends"),
    "cp": ("copy", "Copy files into a machine or out of it"),
    "update": ("update", "Upgrade the packages of machines, and take it back where they then do not do their work"),
    "export": ("transfer", "Write a machine into an archive"),
    "import": ("transfer", "Make a machine of an archive"),
    "image": ("image", "Manage what machines are made of: ls, show, pull, build, rm, prune, refresh, import, export"),
    "pool": ("pool", "Make a pool that can take snapshots: create"),
    "network": ("network", "Manage networks: create, ls, show, rm"),
    "plan": ("fleet", "Show what apply would do, and why"),
    "net": ("net", "Links of machines: ls, attach, detach"),
    "ip": ("net", "Show addresses of machines by their links"),
    "apply": ("fleet", "Make the host what is declared"),
    "check": ("fleetfile", "Check declaration files, and say all that is wrong with them"),
    "schema": ("fleetfile", "Print the JSON Schema of declaration files, for editors"),
    "fleet": ("fleetfile", "Begin a fleet: init"),
    "secret": ("secret", "Keep secrets that machines are given: set, ls, rm"),
    "rollout": ("rollout", "Make machines what is declared with no moment without answers; status, undo"),
    "down": ("fleet", "Stop the fleet, each machine before those it comes after"),
    "gc": ("fleet", "Clean up after interrupted runs"),
    "adopt": ("adopt", "Take over machines made by hand, or described for jailmaker, LXC or compose"),
    "eject": ("adopt", "Leave machines to systemd alone, with plain units and files"),
    "doctor": ("doctor", "Check what machines need of this host, or the network of one machine hop by hop"),
    "version": ("host", "Show the version"),
    "completion": ("host", "Print the completion script of a shell"),
    "bridge": ("bridge", ""),
    "firewall": ("firewall", ""),
    "after": ("after", ""),
    "go-on": ("fleet", ""),
}
ALIASES = {
    "ls": "list",
    "ps": "list",
    "inspect": "show",
    "remove": "rm",
    "poweroff": "stop",
    "reboot": "restart",
    "init": "create",
    "kill": "terminate",
    "unpause": "resume",
}
HIDDEN = {"bridge", "firewall", "after", "go-on", "probe"}
GROUPS = {"snapshot", "image", "pool", "network", "net", "fleet", "secret"}
# Verbs whose functions would otherwise be called like something of Python's.
_SUFFIXED = {"list", "set", "exec", "import", "run"}


def function_name(verb: str) -> str:
    """Give what a verb's function is called in its module."""
    return verb.replace("-", "_") + ("_" if verb in _SUFFIXED else "")


def global_options(
    context: words.Context,
    json: bool = words.Option(False, "--json", help="Print JSON."),
    output: str = words.Option("", "--output", "-o", metavar="FORMAT", help="table, wide, json, yaml, csv or name."),
    quiet: bool = words.Option(False, "--quiet", "-q", help="Print nothing but the answer and errors."),
    verbose: bool = words.Option(False, "--verbose", help="Say every step."),
    dry_run: bool = words.Option(False, "--dry-run", help="Show the plan and do nothing."),
    yes: bool = words.Option(False, "--yes", "-y", help="Ask nothing."),
    timeout: float = words.Option(None, "--timeout", metavar="SECONDS", help="Give up after that long."),
    no_legend: bool = words.Option(False, "--no-legend", help="Print tables without their heading."),
    color: str = words.Option("auto", "--color", metavar="WHEN", help="auto, always or never."),
    debug: bool = words.Option(False, "--debug", help="Show tracebacks."),
) -> Any:
    """Make and run systemd-nspawn machines on this host, without a daemon."""
    context.obj = Options.checked(
        output="json" if json else output or "table",
        quiet=quiet,
        verbose=verbose,
        dry_run=dry_run,
        yes=yes,
        timeout=timeout,
        legend=not no_legend,
        color=color,
        debug=debug,
    )
