# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frozen dataclasses whose methods are shared: the library compiles code for each class, half a millisecond of it.

Type checkers see the library's own. What it offers for them, replace() and the like, works on these too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
    from typing import NamedTuple as NamedTuple
else:
    from operator import itemgetter

    def replace(value: Any, /, **changes: object) -> Any:
        """Give a value like this one, but for the changes."""
        return type(value)(**{**value.__dict__, **changes})

    def field(*, default_factory: Callable[[], Any]) -> _New:
        """Give a default that is made anew for each value."""
        return _New(default_factory)

    def dataclass(*, frozen: bool, kw_only: bool = False, order: bool = False) -> Callable[[type], type]:
        """Give a decorator that makes a class one of frozen values: first of what its bases annotate, then it."""
        assert frozen

        def made(cls: Any) -> Any:
            names = dict.fromkeys([*getattr(cls, "_names", ()), *cls.__annotations__])
            cls._names = cls.__match_args__ = tuple(names)
            defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}
            cls._made = {name: value.make for name, value in defaults.items() if isinstance(value, _New)}
            # In the order of the names, which is that of what is made of a value's __dict__.
            cls._blank = {**names, **{name: value for name, value in defaults.items() if name not in cls._made}}
            cls._needed = names.keys() - defaults.keys()
            cls.__init__ = _init_by_name if kw_only else _init
            cls.__setattr__ = cls.__delattr__ = _refuse
            cls.__eq__, cls.__hash__, cls.__repr__ = _eq, _hash, _repr
            cls.__dataclass_fields__ = _Fields()
            if kw_only:
                cls.__match_args__ = ()
            if order:
                cls.__lt__ = _lt
            return cls

        return made

    class _Named(type):
        """Make the class of a tuple whose values have names: those that it annotates (typing.NamedTuple)."""

        def __new__(cls, name: str, bases: tuple[type, ...], content: dict[str, Any]) -> type:
            fields = tuple(content.get("__annotations__", ()))
            defaults = {field: content.pop(field) for field in fields if field in content}
            for index, field in enumerate(fields):
                content[field] = property(itemgetter(index))
            return super().__new__(
                cls, name, bases, {**content, "_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            )

    class NamedTuple(tuple, metaclass=_Named):
        """A tuple whose values have names."""

        __slots__ = ()

        def __new__(cls, *words: object, **values: object) -> Any:
            given = {**dict(zip(cls._fields, words, strict=False)), **values}
            if len(words) + len(values) != len(given) or not given.keys() <= set(cls._fields):
                raise TypeError(f"{cls.__name__} has {', '.join(cls._fields)}, and is given {words} {values}")
            try:
                return tuple.__new__(
                    cls, [given[field] if field in given else cls._field_defaults[field] for field in cls._fields]
                )
            except KeyError as missing:
                raise TypeError(f"{cls.__name__} needs {missing}") from None

        def __getnewargs__(self) -> tuple[object, ...]:
            return tuple(self)

        def __repr__(self) -> str:
            values = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({values})"

        def _asdict(self) -> dict[str, object]:
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes: object) -> Any:
            return type(self)(**{**self._asdict(), **changes})


class _New:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class _Fields:
    """What dataclasses.fields() and replace() go by, made when they are used."""

    def __get__(self, value: object, cls: Any) -> dict[str, Any]:
        import dataclasses

        fields = [(name, object) for name in cls._names]
        made: Any = dataclasses.make_dataclass(cls.__name__, fields)
        found: dict[str, Any] = made.__dataclass_fields__
        return found


def _init(self: Any, *words: object, **values: object) -> None:
    names = type(self)._names
    if len(words) > len(names):
        raise TypeError(f"{type(self).__name__} takes {len(names)} values")
    given = dict(zip(names, words, strict=False))
    if given.keys() & values.keys():
        raise TypeError(f"{type(self).__name__} is given {', '.join(given.keys() & values.keys())} twice")
    _init_by_name(self, **given, **values)


def _init_by_name(self: Any, **values: object) -> None:
    kind, mine = type(self), self.__dict__
    if not values.keys() >= kind._needed:
        raise TypeError(f"{kind.__name__} needs {', '.join(sorted(kind._needed - values.keys()))}")
    mine.update(kind._blank)
    mine.update(values)
    for name, make in kind._made.items():
        if name not in values:
            mine[name] = make()
    if len(mine) != len(kind._names):
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(values.keys() - set(kind._names)))}")


def _values(self: Any) -> tuple[object, ...]:
    return tuple([self.__dict__[name] for name in type(self)._names])


def _eq(self: Any, other: Any) -> bool:
    return _values(self) == _values(other) if type(self) is type(other) else NotImplemented


def _lt(self: Any, other: Any) -> bool:
    return _values(self) < _values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in type(self)._names)})"


def _refuse(self: Any, name: str, *_: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
