"""The signature is the schema: plain values from YAML are checked against the annotations.

`bind` checks, `build` checks and constructs. Neither knows Hydra; what they refuse is told in a sentence.
"""

import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial as partial_
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from drgn.errors import InputError

# where the components are. No more of the three libraries: drgn.generate.generate opens another run with a
# trust of its own, and torch.distributed has a class whose constructor starts a program
_TRUSTED = (
    "drgn.data.datamodule",
    "drgn.formats.atoms",
    "drgn.models",
    "drgn.simulation.models",
    "drgn.simulation.molecules",
    "drgn.simulation.motions",
    "drgn.simulation.populations",
    "drgn.training.processes",
    "drgn.training.schedules",
    "torch.nn",
    "torch.optim",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.trainer",
)
_TOP = "pytorch_lightning"  # under whose name alone the trainer is known
_NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}


def bind(
    function: Callable[..., Any],
    config: Mapping[str, Any],
    *,
    key: str = "",
    partial: bool = False,
    runtime: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Check plain values against a signature.

    Parameters
    ----------
    function
        A function or a class; its annotations say what is accepted, its parameters without a default are
        needed.
    config
        Values from YAML.
    key
        Where `config` stands in the whole configuration, for instance "model.decoder"; errors name it.
    partial
        Parameters without a default may be missing.
    runtime
        Values that the program supplies; those that the signature names are passed on, unchecked, where
        `config` does not set them.

    Returns
    -------
    dict
        Keyword arguments; paths are Path, whole numbers where a float is wanted are float.

    Raises
    ------
    InputError
        A key is unknown, a value is missing or has the wrong type.
    """
    parameters = {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    open_ended = any(p.kind == p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    arguments = {name: value for name, value in (runtime or {}).items() if name in parameters}
    for name, value in config.items():
        if name not in parameters and not open_ended:
            raise InputError(_unknown(_join(key, name), name, function, parameters))
        annotation = _evaluate(parameters[name].annotation, function) if name in parameters else Any
        if isinstance(value, str) and value == "???":
            raise InputError(_missing(_join(key, name), annotation))
        try:
            arguments[name] = _fit(value, annotation)
        except _Misfit:
            raise InputError(
                f"{_join(key, name)}={_show(value)}: expected {_describe(annotation)}."
            ) from None
    for name, p in parameters.items():
        if not partial and name not in arguments and p.default is p.empty:
            raise InputError(_missing(_join(key, name), _evaluate(p.annotation, function)))
    return arguments


def build(node: Mapping[str, Any], *, trust: Sequence[str] = (), key: str = "", **runtime: Any) -> Any:
    """Construct what a node of the configuration names.

    Own code instead of `hydra.utils.instantiate`, which checks no types, takes any `_target_`, and cannot
    pass a value only to the constructors that ask for it.

    Parameters
    ----------
    node
        A mapping with `_target_`, the dotted name of a class or function, and its keyword arguments. Mappings
        with a `_target_` among the values are built first. With `_partial_: true` the result is a
        functools.partial that waits for the rest of the arguments.
    trust
        Module prefixes that `_target_` may name besides the components of drgn, torch and pytorch_lightning:
        a configuration can be a stranger's, and its targets are executed.
    key
        Where `node` stands in the whole configuration, for instance "model.decoder"; errors name it.
    **runtime
        Values that the program supplies (box_size, zdim, ...), passed on where a signature names them.

    Raises
    ------
    InputError
        The target is not there or not trusted, or its arguments do not fit its signature.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{key or 'The node'} needs a _target_: the dotted name of a class or function.")
    target = resolve(node["_target_"], trust=trust, key=key)
    partial = bool(node.get("_partial_", False))
    values = {
        name: _build_inside(value, trust=trust, key=_join(key, name), **runtime)
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    arguments = bind(target, values, key=key, partial=partial, runtime=runtime)
    return partial_(target, **arguments) if partial else target(**arguments)


def resolve(name: str, *, trust: Sequence[str] = (), key: str = "") -> Callable[..., Any]:
    """Import the class or function that a `_target_` names.

    Parameters
    ----------
    name
        Dotted name, for instance "drgn.models.encoders.MLPEncoder".
    trust, key
        As for `build`.

    Raises
    ------
    InputError
        The name is outside the trusted modules, or there is nothing callable of that name.
    """
    target_key = _join(key, "_target_")
    trusted = (*_TRUSTED, *trust)
    name = str(name)
    module, _, attribute = name.rpartition(".")
    if not _below(module, trusted) and module != _TOP:
        raise InputError(
            f"{target_key}={name} is outside the components of drgn, torch and pytorch_lightning; if you"
            f" trust that code, add trust=[{name.split('.')[0]}]."
        )
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not _below(module, (str(error.name),)):
            raise  # the module is there, something that it imports is not
        raise InputError(f"{target_key}={name}: there is no such class or function.") from None
    # torch.os.system is not torch's, and of the libraries only classes: torch.hub.load runs any code
    library = _below(module, ("torch", _TOP)) and not _below(module, trust)
    ours = inspect.isclass(target) or (inspect.isfunction(target) and not library)
    if not ours or not _below(target.__module__, trusted):
        raise InputError(f"{target_key}={name} is not a class or function that a configuration may name.")
    return target  # type: ignore[no-any-return]


class _Misfit(Exception):
    """A value does not fit an annotation."""


def _build_inside(value: Any, **how: Any) -> Any:
    """Build the nodes among the values of a node."""
    key = how.pop("key")
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, key=key, **how)
        return {name: _build_inside(v, key=_join(key, name), **how) for name, v in value.items()}
    if isinstance(value, list):
        return [_build_inside(v, key=f"{key}[{i}]", **how) for i, v in enumerate(value)]
    return value


def _fit(value: Any, annotation: Any) -> Any:
    """Return the value as the annotation wants it, or raise _Misfit."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty) or isinstance(annotation, TypeVar):
        return value
    if origin is Annotated:
        return _fit(value, inner[0])
    if origin in (Union, types.UnionType):
        return _fit_one_of(value, inner)
    if origin is Literal:
        return _need(value, any(value == choice and type(value) is type(choice) for choice in inner))
    if annotation in (None, type(None)):
        return _need(value, value is None)
    if annotation is bool:
        return _need(value, isinstance(value, bool))
    if annotation is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(_need(value, whole and not isinstance(value, bool)))
    if annotation is float:
        return float(_need(value, isinstance(value, int | float) and not isinstance(value, bool)))
    if annotation is str:  # run=2026 is a name
        return str(_need(value, isinstance(value, str | int) and not isinstance(value, bool)))
    if annotation is Path:
        return value if isinstance(value, Path) else Path(_fit(value, str)).expanduser()
    kind = origin or annotation
    if kind is Callable:
        return _need(value, callable(value))
    if not inspect.isclass(kind):
        return value
    if isinstance(value, list | tuple) and issubclass(kind, Iterable) and not issubclass(kind, Mapping | str):
        items = _fit_items(value, kind, inner)
        return tuple(items) if kind is tuple else items
    if isinstance(value, Mapping) and issubclass(kind, Mapping):
        return {name: _fit(v, inner[1]) if len(inner) == 2 else v for name, v in value.items()}
    return _need(value, isinstance(value, kind))


def _fit_one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    """Fit one member of a union, one of exactly the value's type first."""
    for choice in sorted(choices, key=lambda c: c is not type(value)):
        try:
            return _fit(value, choice)
        except _Misfit:
            continue
    raise _Misfit


def _fit_items(value: Sequence[Any], kind: type, inner: tuple[Any, ...]) -> list[Any]:
    """Fit the items of a list or tuple."""
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        _need(value, len(value) == len(inner))
        return [_fit(v, a) for v, a in zip(value, inner, strict=True)]
    return [_fit(v, inner[0]) for v in value] if inner else list(value)


def _need(value: Any, holds: bool) -> Any:
    if not holds:
        raise _Misfit
    return value


def _evaluate(annotation: Any, function: Callable[..., Any]) -> Any:
    """Turn an annotation written as text into the type; Any where only type checkers know its names."""
    if not isinstance(annotation, str):
        return annotation
    code = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    try:
        return eval(annotation, getattr(code, "__globals__", {}))
    except (NameError, AttributeError, TypeError):
        return Any


def _describe(annotation: Any) -> str:
    """Say what an annotation accepts."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in (None, type(None)):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(a) for a in inner))
    if origin is Literal:
        return "one of " + ", ".join(_show(choice) for choice in inner)
    if annotation in _NOUNS:
        return _NOUNS[annotation]
    kind = origin or annotation
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a group of options"
    if inspect.isclass(kind) and issubclass(kind, Iterable) and inner:
        return f"a list like [{', '.join(_describe(a) for a in inner if a is not Ellipsis)}]"
    return "a list" if kind in (list, tuple) else f"a {getattr(kind, '__name__', kind)}"


def _show(value: Any) -> str:
    """Write a value as one would on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(full: str, name: str, function: Callable[..., Any], parameters: Iterable[str]) -> str:
    near = nearest(name, parameters)
    return f"{full} is not an option of {function.__name__}; {near}"


def _missing(full: str, annotation: Any) -> str:
    return f"{full} has no value: give it as {full}=... ({_describe(annotation)})."


def nearest(name: str, valid: Iterable[str]) -> str:
    """End an error sentence with the valid names nearest to a wrong one, or with all of them."""
    names = sorted(valid)
    if close := get_close_matches(name, names, n=3, cutoff=0.6):
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names)}." if names else "there are none."


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def _below(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes if prefix)
