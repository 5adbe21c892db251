"""Enough of GraphQL to answer the W&B SDK: parse a document, then answer exactly the selection sent.

An answer is built from plain Python: an object is a mapping from field name to a value, or to a function that
takes the field's arguments as a dict. `__typename` in an object decides which typed fragments apply to it.
Fields that an object lacks are answered null and reported to `missing`, so that a test can see the gap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r'[\s,\ufeff]+|#[^\n]*|(?P<block>"""(?:\\"""|.|\n)*?""")|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[_A-Za-z]\w*)|(?P<mark>\.\.\.|[!$&()\[\]{}:=@|])"
)
_INTERFACES = {"ArtifactCollection": {"ArtifactSequence", "ArtifactPortfolio"}}
_WORDS = {"true": True, "false": False, "null": None}


class GraphQLError(Exception):
    """A document that does not parse, or a root field that nobody answers."""


@dataclass(frozen=True)
class Variable:
    """A `$name` inside an argument, replaced when the operation runs."""

    name: str


@dataclass(frozen=True)
class Selection:
    """A field, a fragment spread (`kind == "spread"`) or an inline fragment (`kind == "inline"`).

    `name` is the field's name, the fragment's name, or the type condition ("" for none).
    """

    kind: str
    name: str
    key: str
    arguments: Mapping[str, Any]
    directives: Mapping[str, Mapping[str, Any]]
    children: tuple[Selection, ...]


@dataclass
class Document:
    """The one operation of a request, with its fragments (name -> (type, selections))."""

    kind: str = "query"
    name: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)
    selections: tuple[Selection, ...] = ()
    fragments: dict[str, tuple[str, tuple[Selection, ...]]] = field(default_factory=dict)


class _Parser:
    """Recursive descent over the tokens of one document."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise GraphQLError(f"unexpected character {text[position]!r} at {position}")
            if match.lastgroup:
                self.tokens.append((match.lastgroup, match.group()))
            position = match.end()
        self.tokens.append(("end", ""))
        self.at = 0

    def take(self) -> tuple[str, str]:
        self.at += 1
        return self.tokens[self.at - 1]

    def skip(self, text: str) -> bool:
        """Consume `text` if it comes next."""
        if self.tokens[self.at][1] != text or self.tokens[self.at][0] == "string":
            return False
        self.at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise GraphQLError(f"expected {text!r}, found {self.tokens[self.at][1]!r}")

    def name(self) -> str:
        kind, text = self.take()
        if kind != "name":
            raise GraphQLError(f"expected a name, found {text!r}")
        return text

    def document(self) -> Document:
        document = Document()
        while self.tokens[self.at][0] != "end":
            if self.skip("fragment"):
                name = self.name()
                self.expect("on")
                type_name = self.name()
                self.directives()
                document.fragments[name] = (type_name, self.selections())
                continue
            if self.tokens[self.at][1] != "{":
                document.kind = self.name()
                document.name = self.name() if self.tokens[self.at][0] == "name" else ""
                document.defaults = self.variable_defaults()
                self.directives()
            document.selections = self.selections()
        return document

    def variable_defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        if not self.skip("("):
            return defaults
        while not self.skip(")"):
            self.expect("$")
            name = self.name()
            self.expect(":")
            while self.tokens[self.at][1] in "[]!" or self.tokens[self.at][0] == "name":  # the type, not used
                self.take()
            if self.skip("="):
                defaults[name] = self.value()
        return defaults

    def selections(self) -> tuple[Selection, ...]:
        self.expect("{")
        found = []
        while not self.skip("}"):
            found.append(self.selection())
        return tuple(found)

    def selection(self) -> Selection:
        if self.skip("..."):
            if self.tokens[self.at][0] == "name" and self.tokens[self.at][1] != "on":
                name = self.name()
                return Selection("spread", name, name, {}, self.directives(), ())
            condition = self.name() if self.skip("on") else ""
            return Selection("inline", condition, "", {}, self.directives(), self.selections())
        key = name = self.name()
        if self.skip(":"):
            name = self.name()
        arguments = self.arguments()
        directives = self.directives()
        children = self.selections() if self.tokens[self.at][1] == "{" else ()
        return Selection("field", name, key, arguments, directives, children)

    def arguments(self) -> dict[str, Any]:
        return self.pairs(")") if self.skip("(") else {}

    def directives(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        while self.skip("@"):
            name = self.name()
            found[name] = self.arguments()
        return found

    def pairs(self, close: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.skip(close):
            name = self.name()
            self.expect(":")
            found[name] = self.value()
        return found

    def value(self) -> Any:
        kind, text = self.take()
        if text == "$" and kind == "mark":
            return Variable(self.name())
        if text == "[":
            items = []
            while not self.skip("]"):
                items.append(self.value())
            return items
        if text == "{":
            return self.pairs("}")
        if kind == "string":
            return text[1:-1].encode().decode("unicode_escape")
        if kind == "block":
            return text[3:-3]
        if kind == "number":
            return float(text) if any(mark in text for mark in ".eE") else int(text)
        if kind == "name":
            return _WORDS.get(text, text)  # an enum is its name
        raise GraphQLError(f"expected a value, found {text!r}")


def parse(text: str) -> Document:
    """Parse one request's document. Raises GraphQLError."""
    return _Parser(text).document()


class Answer:
    """Answers one document. `missing` is told "Type.field" for each field that an object lacks."""

    def __init__(
        self, document: Document, variables: Mapping[str, Any], missing: Callable[[str], None]
    ) -> None:
        self.document = document
        self.variables = {**document.defaults, **{k: v for k, v in variables.items() if v is not None}}
        self.missing = missing

    def run(self, root: Mapping[str, Any]) -> dict[str, Any]:
        """The `data` of the answer; `root` holds the fields of Query or Mutation. Raises GraphQLError."""
        for selection in self.document.selections:
            if selection.kind == "field" and selection.name not in root:
                raise GraphQLError(
                    f'Cannot query field "{selection.name}" on type "{self.document.kind.title()}".'
                )
        return self._object(root, self.document.selections)

    def _bound(self, value: Any) -> Any:
        """The value with its variables filled in; an argument whose variable was not sent is left out."""
        if isinstance(value, Variable):
            return self.variables.get(value.name)
        if isinstance(value, list):
            return [self._bound(item) for item in value]
        if isinstance(value, dict):
            return {
                key: self._bound(item)
                for key, item in value.items()
                if not isinstance(item, Variable) or item.name in self.variables
            }
        return value

    def _wanted(self, selection: Selection) -> bool:
        include = self._bound(dict(selection.directives.get("include", {}))).get("if", True)
        skip = self._bound(dict(selection.directives.get("skip", {}))).get("if", False)
        return bool(include) and not skip

    def _fields(self, value: Mapping[str, Any], selections: Sequence[Selection]) -> list[Selection]:
        """The fields that apply to this object, fragments unfolded."""
        found: list[Selection] = []
        for selection in selections:
            if not self._wanted(selection):
                continue
            if selection.kind == "field":
                found.append(selection)
                continue
            condition, children = selection.name, selection.children
            if selection.kind == "spread":
                if selection.name not in self.document.fragments:
                    raise GraphQLError(f'Unknown fragment "{selection.name}".')
                condition, children = self.document.fragments[selection.name]
            type_name = value.get("__typename", condition)
            if condition in ("", type_name) or type_name in _INTERFACES.get(condition, ()):
                found += self._fields(value, children)
        return found

    def _object(self, value: Mapping[str, Any], selections: Sequence[Selection]) -> dict[str, Any]:
        merged: dict[str, tuple[Selection, list[Selection]]] = {}
        for selection in self._fields(value, selections):
            merged.setdefault(selection.key, (selection, []))[1].extend(selection.children)
        out: dict[str, Any] = {}
        for key, (selection, children) in merged.items():
            if selection.name not in value:
                self.missing(f"{value.get('__typename', '?')}.{selection.name}")
            found = value.get(selection.name)
            if callable(found):
                found = found(self._bound(dict(selection.arguments)))
            out[key] = self._complete(found, children)
        return out

    def _complete(self, value: Any, children: Sequence[Selection]) -> Any:
        if not children or value is None:
            return value
        if isinstance(value, list):
            return [self._complete(item, children) for item in value]
        return self._object(value, children)
