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
        made = object.__new__(type(value))
        mine = made.__dict__
        mine.update(value.__dict__)
        mine.update(changes)
        if len(mine) != len(type(value)._names):
            raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(changes.keys() - set(made._names)))}")
        return made

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
            content |= {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            content["_known"] = frozenset(fields)
            return super().__new__(cls, name, bases, content)

    class NamedTuple(tuple, metaclass=_Named):
        """A tuple whose values have names."""

        __slots__ = ()

        def __new__(cls, *words: object, **values: object) -> Any:
            fields = cls._fields
            if len(words) == len(fields) and not values:
                return tuple.__new__(cls, words)
            given = {**dict(zip(fields, words, strict=False)), **values}
            made = {**cls._field_defaults, **given}
            if len(words) + len(values) != len(given) or made.keys() != cls._known:
                raise TypeError(f"{cls.__name__} has {', '.join(fields)}, and is given {words} {values}")
            return tuple.__new__(cls, [made[field] for field in fields])

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
    if words:
        names = type(self)._names
        if len(words) > len(names):
            raise TypeError(f"{type(self).__name__} takes {len(names)} values")
        for name, word in zip(names, words, strict=False):
            if name in values:
                raise TypeError(f"{type(self).__name__} is given {name} twice")
            values[name] = word
    _init_by_name(self, **values)


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
