"""Chat templates as transformers has them, with bounds: a template comes from wherever its bundle does.

jinja2's immutable sandbox keeps a template from Python's insides. What it may take of time and memory is bounded here:
for every turn of a loop, and for every text and list that it makes, compares or looks through, a rendering pays about
as much as that is long, before it is made; at `MOST_WORK` it ends. Filters and methods that no chat template needs are
missing, so that there are few that can make much of little.
"""

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MOST_WORK = 20_000_000  # characters and elements; a chat template takes some thousands for a question
_ELEMENT = 64  # a list's element, against a text's character
_TURN = 10  # a turn of a loop, against the length of the template
_MOST_BITS = 4096  # of a whole number
_WIDEST = 10_000  # characters that something is filled up to
_WIDE = re.compile(r"\*|\d{4,}|\{[^{}]*\{")  # widths in a format, of four digits or given by an argument
_FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format",
    "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "title",
    "tojson", "trim", "unique", "upper",
})  # fmt: skip
_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper", "lower", "lstrip", "partition",
    "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines",
    "startswith", "strip", "swapcase", "title", "upper",
})  # fmt: skip
_FILLING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """What chat templates expect to find, as in transformers' `chat_template_utils.py`; see `render`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed while the template is read
            finalize=self.made,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self._left = MOST_WORK
        self.filters["tojson"] = _to_json
        known: dict[str, Any] = self.filters
        self.filters = {name: self._paid(name, known[name]) for name in _FILTERS}
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._paid(name, test) for name, test in tests.items()}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def render(self, template: jinja2.Template, **given: Any) -> str:
        """The template's text; raises jinja2.TemplateError where it is wrong, or does far more work than its kind."""
        self._left = MOST_WORK
        try:
            return template.render(**given)
        except jinja2.TemplateError:
            raise
        except Exception as error:  # whatever a stranger's expressions raise
            raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from None

    def pay(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise jinja2.TemplateError("it does far more than a chat template has to")

    def made(self, value: Any) -> Any:
        """The value, paid for."""
        kind = type(value)
        if kind is str:
            self.pay(_ELEMENT + len(value))
        elif kind is bool or value is None:
            self.pay(_ELEMENT)
        else:
            self.pay(self._size(value))
        return value

    def joined(self, *values: Any) -> str:
        """What `~` makes of them."""
        return "".join(str(self.made(value)) for value in values)

    def _size(self, value: Any) -> int:
        """Characters and elements of it and of all in it, as often as they are there."""
        total, rest = 0, [value]
        while rest:
            one = rest.pop()
            total += _ELEMENT
            if isinstance(one, str):
                total += len(one)
            elif isinstance(one, range):
                total += _ELEMENT * len(one)
            elif isinstance(one, (list, tuple)):
                rest += one
            elif isinstance(one, dict):
                rest += one.keys()
                rest += one.values()
            elif isinstance(one, Namespace):
                rest.append(one._Namespace__attrs)
            if total + _ELEMENT * len(rest) > self._left:
                self.pay(total + _ELEMENT * len(rest))
        return total

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Paying(len(source)).visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            self._pay_format(left, right)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int):
                    self.pay(self._size(many) * max(times, 1))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        else:
            self.pay(self._size(left) + self._size(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if owner is __self:  # woven in by `_Paying`; a template can't name it
            return __obj(*args)
        method = getattr(__obj, "__wrapped__", __obj)  # jinja2 wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            args = __self._pay_method(owner, method.__name__, args, kwargs)
        else:
            __self.pay(__self._size([owner, args, kwargs]))
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def _pay_method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Pay for a method of a text; its arguments, a row of texts as a list."""
        self.pay(len(text) + self._size([args, kwargs]))
        if name in ("format", "format_map"):
            self._pay_format(text, [args, kwargs])
        elif name == "join" and len(args) == 1:
            return (self._pay_join(text, args[0]),)
        elif name == "replace" and len(args) >= 2 and all(isinstance(one, str) for one in args[:2]):
            self.pay(text.count(args[0]) * len(args[1]))
        elif name in _FILLING:
            _check_widths(args)
        elif name not in _METHODS:
            raise jinja2.TemplateError(f"a chat template has no use for the method {name} of a text")
        return args

    def _pay_join(self, between: str, values: Iterable[Any]) -> list[Any]:
        listed = list(values)
        self.pay(self._size(listed) + len(between) * len(listed))
        return listed

    def _pay_format(self, text: str, values: Any) -> None:
        if _WIDE.search(text):
            raise jinja2.TemplateError("it fills a text up to a width that no chat template needs")
        self.pay(len(text) + (text.count("%") + text.count("{")) * (self._size(values) + 1000))

    def _paid(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test that is paid for."""

        @functools.wraps(function)
        def paid(*args: Any, **kwargs: Any) -> Any:
            _check_widths([*args, *kwargs.values()])
            self.pay(self._size([args, kwargs]))
            texts = [one for one in [*args, *kwargs.values()] if isinstance(one, str)]
            if name == "replace" and len(texts) >= 3:
                self.pay(texts[0].count(texts[1]) * len(texts[2]))
            elif name == "indent" and texts:
                self.pay(texts[0].count("\n") * (_WIDEST if len(texts) == 1 else len(texts[1])))
            elif name == "format" and texts:
                self._pay_format(texts[0], [args[1:], kwargs])
            elif name == "join" and len(args) >= 2:
                between = args[2] if len(args) > 2 else kwargs.get("d", "")
                args = (args[0], self._pay_join(str(between), args[1]), *args[2:])
            return self.made(function(*args, **kwargs))

        return paid


class _Paying(NodeTransformer):
    """Rewrites a template so that it pays: `length` of its source for each turn of a loop or macro."""

    def __init__(self, length: int) -> None:
        self._length = length

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _call("made", node.iter)
        node.body.insert(0, self._turn(node))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, self._turn(node))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call("joined", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        for operand in node.ops:
            operand.expr = _call("made", operand.expr)
        return node

    def _made(self, node: Any) -> Any:
        self.generic_visit(node)
        stored = getattr(node, "ctx", "load") != "load"
        return node if stored else _call("made", node)

    visit_List = visit_Tuple = visit_Dict = _made

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _call("made", node) if isinstance(node.arg, nodes.Slice) else node

    def _turn(self, node: nodes.Node) -> nodes.ExprStmt:
        return nodes.ExprStmt(_call("pay", nodes.Const(_TURN * self._length)), lineno=node.lineno)


def _call(name: str, *arguments: Any) -> nodes.Call:
    """A call of the environment's own method."""
    line = arguments[0].lineno
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None, lineno=line)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote; here it only has to be let through."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise jinja2.TemplateError("it counts further than a chat template has to")


def _check_widths(arguments: Iterable[Any]) -> None:
    if any(isinstance(one, int) and one > _WIDEST for one in arguments):
        raise jinja2.TemplateError("it fills a text up to a width that no chat template needs")


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
