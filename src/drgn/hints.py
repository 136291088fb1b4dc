"""What a person is told: the help of a verb, and the sentence that answers a wrong option."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drgn import CONF
from drgn.signature import nearest


def help_text(verb: str, docstring: str) -> str:
    """Return the help of a verb: its module's docstring, its options with their comments, its groups."""
    text = (CONF / f"{verb}.yaml").read_text()
    options = re.sub(r"^(defaults|hydra):\n(?:[ \t].*\n)+\n*", "", text, flags=re.MULTILINE)
    parts = [docstring.strip(), "Options (key=value), with their defaults:\n\n" + _indent(options)]
    if listed := groups(verb):
        chosen = dict(re.findall(r"^  - ([\w/]+): (\S+)$", text, flags=re.MULTILINE))
        rows = [
            textwrap.fill(
                f"{group:<16}" + " ".join(f"[{c}]" if c == chosen.get(group) else c for c in choices),
                width=100,
                subsequent_indent=" " * 16,
            )
            for group, choices in listed.items()
        ]
        parts.append("Groups (group=choice; [default]):\n\n" + _indent("\n".join(rows)))
        theirs = [_of_choice(*one) for one in chosen.items() if one[0] in listed and one[1] != "null"]
        parts.append(
            "Options of the groups (group.key=value), those of the default choices:\n\n"
            + _indent("\n".join("\n".join(lines) for lines in theirs if lines))
        )
        parts.append(f"The other choices are files of {CONF}; --cfg job prints the options of this call.")
    return "\n\n".join(parts) + "\n"


def _of_choice(group: str, choice: str) -> list[str]:
    """Lines of the options of a choice of a group, then those of its subgroups."""
    keys, below = _keys(group, choice)
    own = [line for lines in keys.values() for line in lines]
    return own + [line for name, other in below for line in _of_choice(f"{group}/{name}", other)]


def _keys(group: str, choice: str) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Lines of each key of a choice by its full name, with its comment, and the subgroups that it chooses.

    YAML is read by its lines here: the parser is slow to import, and drops comments.
    """
    keys: dict[str, list[str]] = {}
    below: list[tuple[str, str]] = []
    comment: list[str] = []
    lines: list[str] = []
    key = ""
    text = (CONF / group / f"{choice}.yaml").read_text()
    for line in [] if text.startswith("# @package") else text.splitlines():
        if line.startswith("#"):
            comment.append(line)
        elif line.startswith("  - ") and key == "defaults":
            name, _, other = line[4:].partition(": ")
            if other:
                below.append((name, other))
            elif name != "_self_":  # the choice that this one starts from
                keys.update(_keys(group, name)[0])
        elif line.startswith(" "):
            lines.append(line)
        else:
            key = line.partition(":")[0]
            comment = comment or [said for said in keys.get(key, []) if said.startswith("#")]
            lines, comment = [*comment, f"{group.replace('/', '.')}.{line}"], []
            if key not in ("defaults", "_target_", "_partial_"):
                keys[key] = lines
    return keys, below


def explain(error: str, verb: str, overrides: Sequence[str], options: Any) -> str:
    """Say in one sentence what Hydra could not compose.

    Parameters
    ----------
    error
        Hydra's or OmegaConf's message.
    verb
        The verb.
    overrides
        The options that were given.
    options
        The nested options that compose without the wrong one, for near names.
    """
    if match := re.search(r"Could not (?:override|delete from config\.) '(.+?)'", error):
        return f"{match[1]} is not an option of {verb}; {_suggest(match[1], verb, options)}"
    if match := re.search(r"Could not find '(.+?)'\n\nAvailable options in '(.+?)':\n((?:\t\S+\n)+)", error):
        choice = match[1].removeprefix(match[2]).lstrip("/")
        return f"{match[2]}={choice} is not there; {nearest(choice, match[3].split())}"
    if match := re.search(r"Could not find '(.+?)'", error):
        return f"{match[1]} is not there: no such YAML in {CONF} or --config-dir."
    if match := re.search(r"Ambiguous value for argument '(.+?)=(.+?)'", error):
        return f"{match[0][30:-1]}: write {match[1]}=[{match[2]}] for a list, or add -m for one run each."
    if "Config group override must be" in error:
        for word in overrides:
            if choices := groups(verb).get(word.partition("=")[0]):
                return f"{word} is not there; there are {', '.join(choices)}."
    if match := re.match(r"(.+)\n\s+full_key: (\S+)", error):
        return f"{match[2]}: {match[1].rstrip('.')}."
    return " ".join(error.split())


def _suggest(key: str, verb: str, options: Any) -> str:
    """Name what a wrong key may have meant: the same name elsewhere, or near names beside it."""
    parent, _, name = key.rpartition(".")
    dotted = [leaf for leaf, _ in leaves(options)]
    if elsewhere := [leaf for leaf in dotted if leaf.rpartition(".")[2] == name]:
        return f"did you mean {' or '.join(elsewhere)}?"
    if "/" in key:
        return nearest(key, groups(verb))
    beside: Any = options
    for part in filter(None, parent.split(".")):
        beside = beside.get(part) if isinstance(beside, Mapping) else None
    if not isinstance(beside, Mapping):
        beside, parent = options, ""
    names = {str(n) for n in beside if not str(n).startswith("_")}
    if not parent:
        names |= {group for group in groups(verb) if "/" not in group}
    return nearest(key, [f"{parent}.{n}" if parent else n for n in names])


def groups(verb: str) -> dict[str, list[str]]:
    """List the choices of each config group that a verb's defaults list names, and of their subgroups."""
    text = (CONF / f"{verb}.yaml").read_text()
    used = set(re.findall(r"^  - (\w+): ", text, flags=re.MULTILINE)) - {"hydra"}
    folders = sorted(p for p in CONF.rglob("*") if p.is_dir() and p.relative_to(CONF).parts[0] in used)
    return {
        folder.relative_to(CONF).as_posix(): sorted(p.stem for p in folder.glob("[!_]*.yaml"))
        for folder in folders
    }


def leaves(options: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested options; yields (dotted key, value)."""
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, options


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.strip().splitlines())
