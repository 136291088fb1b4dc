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
        parts.append(
            "Groups (group=choice; [default]); their options are group.key=value:\n\n"
            + _indent("\n".join(rows))
        )
        parts.append(
            f"The groups' files, with their options, are in {CONF}; --cfg job prints those of this call."
        )
    return "\n\n".join(parts) + "\n"


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
        folder.relative_to(CONF).as_posix(): sorted(p.stem for p in folder.glob("*.yaml"))
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
