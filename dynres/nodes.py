"""Configuration nodes ({"_target_": class, option: value}) to objects, with every mistake named before it is made."""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from dynres.errors import UserError


def plain(node: Any) -> Any:
    """A resolved copy in plain Python types (what checkpoints may hold)."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def make(node: Any, where: str, **extra: Any) -> Any:
    """Instantiate a node; a value that its constructor refuses becomes one line that names the node."""
    check_options(node, where, extra)
    try:
        return instantiate(node, **extra, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        if isinstance(cause, ValueError | TypeError):
            raise UserError(f"{where}: {cause}") from error
        raise


def check_options(node: Any, where: str, given: Iterable[str] = ()) -> None:
    """Refuse keys that the node's `_target_` does not take, before it is called; so for every node inside."""
    try:
        target = get_object(str(node["_target_"]))
    except (ImportError, AttributeError, ValueError, KeyError) as error:
        raise UserError(f"{where}._target_ cannot be found: {error}") from error
    except Exception as error:  # hydra wraps a failing import in a bare InstantiationException subclass
        raise UserError(f"{where}._target_ {node['_target_']} cannot be imported: {error}") from error
    parameters = inspect.signature(target).parameters
    known = [name for name in parameters if name not in given]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    try:
        hints = typing.get_type_hints(target if inspect.isroutine(target) else target.__init__)
    except NameError:  # somebody's class, with names that only a type checker imports
        hints = {}
    for key in node:
        if str(key).startswith("_"):
            continue
        if key not in known and not takes_any:
            raise UserError(unknown(f"{where}.{key}", str(key), known))
        check_type(f"{where}.{key}", node[key], hints.get(str(key)))
        if isinstance(node[key], Mapping) and "_target_" in node[key]:
            check_options(node[key], f"{where}.{key}")


# Annotation -> (what a configuration may hold for it, in words); YAML has no float for `1`.
_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "a text"),
    type(None): ((type(None),), "null"),
}


def check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value that is none of the plain types of an annotation; other annotations are not looked at.

    Raises:
        UserError: such as "method.learning_rate must be a number, got abc".
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if any(option not in _SCALARS for option in options):
        return
    if not any(type(value) in _SCALARS[option][0] for option in options):
        words = " or ".join(_SCALARS[option][1] for option in options)
        raise UserError(f"{name} must be {words}, got {value}")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The line for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    return f"unknown option {what}; {hint}"
