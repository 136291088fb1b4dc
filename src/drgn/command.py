"""From a typed function to a command: Hydra composes the options, the function's signature checks them.

    main = command(train)                      # `python -m drgn.train key=value ...`
    compose("train", ["model=1024x3"])         # the same options as a plain dict, for Python

A mistake on the command line is answered by one sentence and exit code 2; only a defect shows a traceback.
Hydra is imported when a command runs, so that `--help` is instant.
"""

import os
import re
import select
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from drgn import CONF
from drgn.errors import REFUSALS, InputError, say, visible
from drgn.hints import explain, help_text, leaves
from drgn.signature import bind, build

__all__ = ["bind", "build", "command", "compose", "help_text"]

# what the settings of Hydra may name: its own parts, what drgn has for it, and the plain ones of logging
_HYDRA_NAMES = {
    "_target_": ("hydra.", "hydra_plugins.", "drgn.sweeps.hook."),
    "class": ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    "()": ("colorlog.",),
}
_VERSION_BASE = "1.3"  # the behaviour of Hydra that conf/ is written for


def command(function: Callable[..., Any]) -> Callable[[], None]:
    """Make the entry point of a verb.

    Parameters
    ----------
    function
        The verb: keyword-only and annotated; conf/NAME.yaml holds its options and their defaults.

    Returns
    -------
    Callable
        Reads sys.argv, calls `function`; ends the process with 2 on a mistake, 130 on Ctrl-C, 1 when nobody
        reads what it prints any more.
    """
    verb = function.__name__

    def answer() -> None:
        if {"-h", "--help"} & set(sys.argv[1:]):
            say(help_text(verb, sys.modules[function.__module__].__doc__ or ""))
            return
        try:
            _run(function, verb)
        except InputError as error:
            sys.exit(_complain(verb, str(error), 2))
        except KeyboardInterrupt:
            sys.exit(_complain(verb, "interrupted", 130))

    def main() -> None:
        try:
            answer()
            sys.stdout.flush()  # here, since Python's own flush at the end would complain
        except BrokenPipeError as error:
            _end_unread(error)

    return main


def compose(verb: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the options of a verb as its command line does.

    Parameters
    ----------
    verb
        Name of a file of conf/.
    overrides
        What would stand on the command line, for instance ["dataset=empiar10076", "epochs=3"].

    Returns
    -------
    dict
        Plain Python values, interpolations resolved.

    Raises
    ------
    InputError
        An option or a choice is unknown, or one has no value.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check_words(overrides)
    try:
        return _plain(_compose(verb, overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _mistake(error, verb, overrides) from None


def _run(function: Callable[..., Any], verb: str) -> None:
    """Let Hydra compose and call the function, once or (multirun) once per job."""
    overrides, config_dir = _flags_first()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    process = os.getpid()
    mistakes: list[InputError] = []

    def job(config: Any) -> Any:
        environment = dict(os.environ)
        try:
            try:
                options = _plain(config)
            except OmegaConfBaseException as error:
                raise _mistake(error, verb, overrides, config_dir) from None
            _number_output(options)
            arguments = bind(function, options)
            _narrow_argv(options, config_dir)
            return function(**arguments)
        except BrokenPipeError as error:
            if os.getpid() != process:
                raise
            _end_unread(error)  # here, since Hydra would print a line
        except (InputError, OSError) as error:
            mistake = error if isinstance(error, InputError) else _refusal(error)
            if mistake is None or os.getpid() != process:  # a launcher's worker
                raise
            mistakes.append(mistake)  # kept back, since Hydra would print more than the one sentence
            return None
        finally:
            _leave_distributed(environment)

    if config_dir is not None:
        _require_harmless(verb, overrides, config_dir)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands exceptions on as they are instead of printing them
    entry = hydra.main(config_path=str(CONF), config_name=verb, version_base=_VERSION_BASE)(job)
    try:
        entry()
    except (HydraException, ValueError) as error:
        if isinstance(error, HydraException) or "Config group override" in str(error):
            raise _mistake(error, verb, overrides, config_dir) from None
        raise
    for mistake in mistakes[:-1]:
        _complain(verb, str(mistake), 2)
    if mistakes:
        raise mistakes[-1]


def _end_unread(error: BrokenPipeError) -> NoReturn:
    """End with 1 where the reader of standard output has closed it, as `head` does.

    Another broken pipe, such as one to a process that reads batches, is a defect: that error is raised.
    """
    looked = select.poll()
    if sys.stdout is not None:
        looked.register(sys.stdout, 0)
    if not looked.poll(0):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
    sys.exit(1)


def _refusal(error: OSError) -> InputError | None:
    """Turn what a disk answers, which is no defect, into a sentence; None of other errors."""
    if error.errno not in REFUSALS:
        return None
    where = error.filename or "a file of the output"
    said = os.strerror(error.errno)  # libraries put words of their own there
    return InputError(f"{where} is refused ({said}): make room there, or change its permissions")


def _flags_first() -> tuple[list[str], str | None]:
    """Put Hydra's flags before the options, where it wants them, and refuse words that are neither."""
    from hydra._internal.utils import get_args_parser

    known, unknown = get_args_parser().parse_known_intermixed_args(sys.argv[1:])
    _check_words([*unknown, *known.overrides])
    flags = [word for word in sys.argv[1:] if word not in known.overrides]
    sys.argv[1:] = [*flags, *known.overrides]
    return known.overrides, known.config_dir


def _check_words(words: Sequence[str]) -> None:
    """Refuse what is not written as an option."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for word in words:
        key, _, value = word.partition("=")
        if word.startswith("-"):
            name = key.lstrip("-").replace("-", "_") or "key"
            raise InputError(f"{key} is not a flag; options are written without dashes: {name}=VALUE.")
        if not key.strip("+") or ("=" not in word and not word.startswith("~")):
            raise InputError(f"{word} is not an option; options are written key=value (--help lists them).")
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            raise InputError(
                f"{word} cannot be read; quote a value that has special characters: '{key}=\"{value}\"'."
            ) from None


def _plain(config: Any) -> dict[str, Any]:
    """Turn a composed configuration into plain Python, and refuse options that still have no value."""
    from omegaconf import OmegaConf

    options = OmegaConf.to_container(config, resolve=True)
    assert isinstance(options, dict)
    for key, value in leaves(options):
        if value == "???" and "." in key:  # those at the top are `bind`'s, which knows their types
            raise InputError(f"{key} has no value: give it as {key}=...")
    return {str(key): value for key, value in options.items()}


def _number_output(options: dict[str, Any]) -> None:
    """Give each job of a multirun its own output folder, where the verb's YAML sweeps in `output`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN and settings.sweep.dir == str(options.get("output")):
        options["output"] = str(Path(settings.sweep.dir) / str(settings.sweep.subdir))


def _narrow_argv(options: Mapping[str, Any], config_dir: str | None) -> None:
    """Make sys.argv say this job alone, in this output folder.

    Lightning starts the other processes of a distributed run by repeating sys.argv: without this each would
    start the whole sweep again, in a folder named by another time.
    """
    from hydra.core.hydra_config import HydraConfig

    words = [w for w in HydraConfig.get().overrides.task if not re.match(r"\+?(sweep|output)=", w)]
    if options.get("output") is not None:
        words.append(f"output={_quote(str(options['output']))}")
    sys.argv[1:] = [*(["--config-dir", config_dir] if config_dir else []), *words]


def _require_harmless(verb: str, overrides: Sequence[str], config_dir: str) -> None:
    """Refuse a folder of YAML that makes Hydra itself run code, which it does without asking for `trust`.

    Launchers, sweepers and callbacks are `_target_`s that Hydra builds, and the settings of logging name
    classes. What a sweep on the command line or in the YAML chooses is looked at choice by choice.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def settings(words: Sequence[str]) -> dict[str, Any]:
        try:
            composed = _compose(verb, words, config_dir, settings=True)
            return dict(OmegaConf.to_container(composed["hydra"], resolve=False))  # type: ignore[arg-type]
        except (HydraException, OmegaConfBaseException, ValueError):
            return {}  # `hydra.main` tells

    parser = OverridesParser.create()
    fixed = [word for word in overrides if not parser.parse_override(word).is_sweep_override()]
    seen = settings(fixed)
    swept = [word for word in overrides if word not in fixed]
    swept += [f"{name}={value}" for name, value in ((seen.get("sweeper") or {}).get("params") or {}).items()]
    composed = [seen]
    for word in swept:
        try:
            choices = list(parser.parse_override(word).sweep_string_iterator())
        except HydraException:  # an interval is of numbers; what a glob finds is not known yet
            if "glob(" in word:
                raise InputError(f"{word}: with --config-dir, write out the choices of a sweep.") from None
            continue
        composed += [settings([*fixed, f"{word.partition('=')[0]}={choice}"]) for choice in choices]
    for name, value in (leaf for node in composed for leaf in leaves(node)):
        if not str(value).startswith(_HYDRA_NAMES.get(name.rpartition(".")[2], ("",))):
            raise InputError(
                f"{config_dir} sets hydra.{name}={value}, which would run code that is not Hydra's; remove"
                " it."
            )


def _leave_distributed(environment: Mapping[str, str]) -> None:
    """Undo what Lightning leaves in the process after a distributed job: the next one starts its own."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        with suppress(RuntimeError):  # another process is gone, which is told already
            distributed.destroy_process_group()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


def _compose(
    verb: str, overrides: Sequence[str], config_dir: str | None = None, settings: bool = False
) -> Any:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    added = Path(config_dir).absolute() if config_dir and Path(config_dir).is_dir() else None
    where = [f"hydra.searchpath=[{_quote(f'file://{added}')}]"] if added else []
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None  # a command may ask for another verb's options
    try:
        with hydra.initialize_config_dir(config_dir=str(CONF), version_base=_VERSION_BASE):
            return hydra.compose(verb, overrides=[*overrides, *where], return_hydra_config=settings)
    finally:
        GlobalHydra.instance().hydra = running


def _mistake(
    error: Exception, verb: str, overrides: Sequence[str], config_dir: str | None = None
) -> InputError:
    """Turn what Hydra could not compose into one sentence, with the options that do compose at hand."""
    from omegaconf import OmegaConf

    key = re.search(r"'(.+?)'", str(error))
    rest = [w for w in overrides if key is None or w.partition("=")[0].lstrip("+~") != key[1]]
    try:
        options = _compose(verb, rest, config_dir)
    except Exception:  # there is another mistake beside this one
        options = _compose(verb, ())
    return InputError(explain(str(error), verb, overrides, OmegaConf.to_container(options)))


def _quote(value: str) -> str:
    """Write a value so that Hydra's grammar takes it as one text."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _complain(verb: str, sentence: str, code: int) -> int:
    say(f"drgn {verb}: {visible(sentence)}", file=sys.stderr)
    return code
