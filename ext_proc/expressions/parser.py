"""Tokens -> syntax tree: a Pratt parser for CEL's grammar (github.com/google/cel-spec, langdef). Nesting is bounded."""

from __future__ import annotations

from dataclasses import replace

from ext_proc.expressions.errors import ExpressionError, NotCelError
from ext_proc.expressions.lexer import Token, tokens
from ext_proc.expressions.syntax import (
    Binary,
    Call,
    Conditional,
    Index,
    ListOf,
    Literal,
    Macro,
    MapOf,
    Name,
    Node,
    Select,
    Unary,
    walk,
)
from ext_proc.expressions.values import INT_MAX

MAX_LENGTH = 8192
MAX_NESTED = 48
"""Brackets, conditionals and unary operators within one another."""
MAX_HEIGHT = 120
"""Of the tree: each level is a call of Python's when it is evaluated."""

MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
_BINDS = {
    "||": 1,
    "&&": 2,
    "<": 3,
    "<=": 3,
    ">": 3,
    ">=": 3,
    "==": 3,
    "!=": 3,
    "in": 3,
    "+": 4,
    "-": 4,
    "*": 5,
    "/": 5,
    "%": 5,
}
_WORDS = {"true": True, "false": False, "null": None}
_RESERVED = frozenset(
    (
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package"),
        *("namespace", "return", "var", "void", "while"),
    )
)


def parse(source: str) -> Node:
    """The tree of one expression. ExpressionError where it is none, or too large."""
    if len(source) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters", 0, "Split it.")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise NotCelError("half a character", error.start) from None
    parser = _Parser(tokens(source))
    root = parser.expression()
    parser.expect("end")
    for node, depth in walk(root):
        if depth > MAX_HEIGHT:
            raise ExpressionError("is too deeply nested", node.at, "Use brackets to make it flatter, or split it.")
        if isinstance(node, Literal) and type(node.value) is int and node.value > INT_MAX:
            raise NotCelError("the number is beyond 64 bits", node.at, "Write a double, such as 1e19.")
    return root


class _Parser:
    def __init__(self, stream: list[Token]) -> None:
        self._stream = stream
        self._n = 0
        self._depth = 0

    @property
    def _next(self) -> Token:
        return self._stream[self._n]

    def _take(self) -> Token:
        self._n += 1
        return self._stream[self._n - 1]

    def _accept(self, kind: str) -> Token | None:
        return self._take() if self._next.kind == kind else None

    def expect(self, kind: str) -> Token:
        if self._next.kind != kind:
            token = self._next
            found = "the end" if token.kind == "end" else f"{token.value if token.kind == 'name' else token.kind!r}"
            wanted = "nothing more" if kind == "end" else f"`{kind}`"
            raise NotCelError(f"expected {wanted}, found {found}", token.at)
        return self._take()

    def expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise ExpressionError(f"nests more than {MAX_NESTED} deep", self._next.at, "Split it.")
        condition = self._binary(1)
        if self._accept("?"):
            then = self._binary(1)
            self.expect(":")
            otherwise = self.expression()
            condition = Conditional(condition.at, otherwise.end, condition, then, otherwise)
        self._depth -= 1
        return condition

    def _operator(self) -> str:
        token = self._next
        return "in" if token.kind == "name" and token.value == "in" else token.kind

    def _binary(self, least: int) -> Node:
        left = self._unary()
        while (binds := _BINDS.get(operator := self._operator(), 0)) >= least:
            if operator in ("&&", "||"):
                operands = [left]
                while self._next.kind == operator:
                    self._take()
                    operands.append(self._binary(binds + 1))
                left = _balanced(operator, operands)
                continue
            self._take()
            right = self._binary(binds + 1)
            left = Binary(left.at, right.end, operator, left, right)
        return left

    def _unary(self) -> Node:
        token = self._next
        if token.kind not in ("!", "-"):
            return self._member()
        self._take()
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise ExpressionError(f"nests more than {MAX_NESTED} deep", token.at, "Split it.")
        operand = self._unary()
        self._depth -= 1
        follows = self._stream[self._n - 2].kind == "-"  # what `-1` says, `-(1)` computes
        if token.kind == "-" and follows and isinstance(operand, Literal) and type(operand.value) in (int, float):
            return Literal(token.at, operand.end, -operand.value)
        return Unary(token.at, operand.end, token.kind, operand)

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._accept("."):
                name = self._take()
                if name.kind == "name" and (name.value in _WORDS or name.value == "in"):
                    raise NotCelError(f"{name.value!r} is no member's name", name.at)
                if name.kind == "name" and self._next.kind == "(":
                    node = self._method(node, name)
                elif name.kind in ("name", "escaped"):
                    node = Select(node.at, name.end, node, name.value)
                else:
                    raise NotCelError("a name must follow the dot", name.at)
            elif self._accept("["):
                key = self.expression()
                node = Index(node.at, self.expect("]").end, node, key)
            else:
                return node

    def _method(self, target: Node, name: Token) -> Node:
        arguments, end = self._arguments()
        if name.value not in MACROS:
            return Call(target.at, end, name.value, target, arguments)
        kind = "exists_one" if name.value == "existsOne" else name.value
        if len(arguments) != 2 and not (kind == "map" and len(arguments) == 3):
            raise NotCelError(
                f"{name.value}() takes a variable and an expression", name.at, f"Write .{name.value}(x, x ...)."
            )
        variable, *rest = arguments
        if not isinstance(variable, Name) or variable.absolute:
            raise NotCelError("the variable must be a plain name", variable.at, f"Write .{name.value}(x, x ...).")
        guard = rest[0] if len(rest) == 2 else None
        return Macro(target.at, end, kind, target, variable.name, rest[-1], guard)

    def _arguments(self) -> tuple[tuple[Node, ...], int]:
        self.expect("(")
        arguments: list[Node] = []
        if self._next.kind != ")":
            arguments.append(self.expression())
            while self._accept(","):
                arguments.append(self.expression())
        return tuple(arguments), self.expect(")").end

    def _primary(self) -> Node:
        token = self._take()
        if token.kind == "literal":
            return Literal(token.at, token.end, token.value)
        if token.kind == "(":
            inside = self.expression()
            return replace(inside, at=token.at, end=self.expect(")").end)
        if token.kind == "[":
            return self._list(token)
        if token.kind == "{":
            return self._map(token)
        absolute = token.kind == "."
        name = self._take() if absolute else token
        if name.kind != "name":
            found = "the end" if name.kind == "end" else f"{name.kind!r}"
            raise NotCelError(f"expected a value, found {found}", name.at)
        if name.value in _WORDS and not absolute:
            return Literal(name.at, name.end, _WORDS[name.value])
        if name.value in _RESERVED or name.value == "in" or name.value in _WORDS:
            raise NotCelError(f"{name.value!r} is a reserved word", name.at)
        if self._next.kind != "(":
            return Name(token.at, name.end, name.value, absolute)
        arguments, end = self._arguments()
        if name.value != "has":
            return Call(token.at, end, name.value, None, arguments)
        if len(arguments) != 1 or not isinstance(arguments[0], Select) or arguments[0].test:
            raise NotCelError("has() takes one member, such as has(a.b)", name.at)
        return Select(token.at, end, arguments[0].operand, arguments[0].field, test=True)

    def _list(self, opening: Token) -> Node:
        items: list[Node] = []
        while self._next.kind != "]":
            items.append(self.expression())
            if not self._accept(","):
                break
        return ListOf(opening.at, self.expect("]").end, tuple(items))

    def _map(self, opening: Token) -> Node:
        entries: list[tuple[Node, Node]] = []
        while self._next.kind != "}":
            key = self.expression()
            self.expect(":")
            entries.append((key, self.expression()))
            if not self._accept(","):
                break
        return MapOf(opening.at, self.expect("}").end, tuple(entries))


def _balanced(operator: str, operands: list[Node]) -> Node:
    """A chain of && or || as a tree of little height; they are associative."""
    if len(operands) == 1:
        return operands[0]
    middle = (len(operands) + 1) // 2
    left, right = _balanced(operator, operands[:middle]), _balanced(operator, operands[middle:])
    return Binary(left.at, right.end, operator, left, right)
