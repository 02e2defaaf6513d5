"""Chat templates of strangers: each ends within a moment and in little memory, and what ordinary ones use stays."""

import time
import tracemalloc

import jinja2
import pytest

from masters_edge.runtime.chat_template import Environment
from tests import tiny

DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
MACRO = "{% macro f(n) %}BODY{% endmacro %}{{ f(90) }}"
TOO_MUCH, TOO_WIDE, TOO_DEEP = "does far more", "fills a text up to a width", "RecursionError"


def doubling(start: str, step: str) -> str:
    return DOUBLING.replace("START", start).replace("STEP", step)


def often(body: str, before: str = "") -> str:
    return f"{before}{{% for a in range(99999) %}}{body}{{% endfor %}}"


LIST = "{% set l = range(99999)|list %}"
BAD = {
    "loops": (often("{% for b in range(99999) %}{% endfor %}"), TOO_MUCH),
    "loops that take nothing": (often("{% for b in range(99999) if false %}x{% endfor %}"), TOO_MUCH),
    "much constant text": (often("x" * 100_000), TOO_MUCH),
    "times": ("{{ 'a' * 10**10 }}", TOO_MUCH),
    "times, turned": ("{{ 10**10 * 'a' }}", TOO_MUCH),
    "power": ("{{ 10 ** 10000 ** 2 }}", "counts further"),
    "concatenated": (doubling("'ab'", "ns.x ~ ns.x"), TOO_MUCH),
    "added": (doubling("'ab'", "ns.x + ns.x"), TOO_MUCH),
    "lists in lists": (doubling("[1]", "[ns.x, ns.x]"), TOO_MUCH),
    "dicts in dicts": (doubling("[1]", "dict(a=ns.x, b=ns.x)"), TOO_MUCH),
    "namespaces in namespaces": (doubling("1", "namespace(a=ns.x, b=ns.x)"), TOO_MUCH),
    "replaced": (doubling("'aa'", "ns.x.replace('a', 'aaaa')"), TOO_MUCH),
    "replaced by a filter": (doubling("'aa'", "ns.x|replace('a', 'aaaa')"), TOO_MUCH),
    "joined": (doubling("'aa'", "ns.x.join([ns.x, ns.x])"), TOO_MUCH),
    "joined by a filter": (doubling("'aa'", "[ns.x, ns.x]|join(ns.x)"), TOO_MUCH),
    "blocks": ("{% set x %}abc{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60, TOO_MUCH),
    "macros": (MACRO.replace("BODY", "{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}x"), TOO_MUCH),
    "a macro for ever": (MACRO.replace("BODY", "{{ f(n) }}"), TOO_DEEP),
    "a loop in itself": ("{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", TOO_DEEP),
    "filled": ("{{ 'a'.ljust(10**10) }}", TOO_WIDE),
    "a wide number": ("{{ '%10000000000d' % 1 }}", TOO_WIDE),
    "a given width": ("{{ '%*d' % (10**10, 1) }}", TOO_WIDE),
    "a wide format": ("{{ '{:>10000000000}'.format(1) }}", TOO_WIDE),
    "a given format": ("{{ '{:>{}}'.format(1, 10**10) }}", TOO_WIDE),
    "a wide format by a filter": ("{{ '%10000000000d'|format(1) }}", TOO_WIDE),
    "indented": ("{{ 'a\n\n\n'|indent(10**10) }}", TOO_WIDE),
    "indented with much": ("{{ ('\n' * 1000000)|indent('x' * 1000000) }}", TOO_MUCH),
    "rounded": ("{{ 1.5|round(10**9) }}", TOO_WIDE),
    "looked through": (often("{{ -1 in l }}", LIST), TOO_MUCH),
    "tested": (often("{{ 5 is in(l) }}", LIST), TOO_MUCH),
    "cut": (often("{% set b = l[1:] %}", "{% set l = 'a' * 1000000 %}"), TOO_MUCH),
    "mapped": (often("{% set b = range(99999)|map('string')|list %}"), TOO_MUCH),
    "lowered": (often("{% if x.lower() %}{% endif %}", "{% set x = 'a' * 5000000 %}"), TOO_MUCH),
    "the year": ("{{ strftime_now('%Y' * 10000000) }}", TOO_MUCH),
    "encoded": ("{{ 'a'.encode('utf-32') }}", "no use for the method encode"),
    "translated": ("{{ 'a'.translate({97: 'b' * 1000}) }}", "no use for the method translate"),
    "centred": ("{{ 'a'|center(10**10) }}", "No filter named 'center'"),
    "batched": ("{{ [1]|batch(10**9, 'a')|list }}", "No filter named 'batch'"),
    "lorem ipsum": ("{{ lipsum(n=10**6) }}", "is undefined"),
    "its environment": ("{{ environment.pay(-10**9) }}", "is undefined"),
    "Python's insides": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "another file": ("{% include '/etc/passwd' %}", "no loader"),
    "nothing by nothing": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "brackets": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", TOO_DEEP),
    "blocks in blocks": ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
}


@pytest.mark.parametrize("case", BAD)
def test_it_ends_soon(case: str) -> None:
    template, words = BAD[case]
    environment = Environment()
    began = time.process_time()
    with pytest.raises((jinja2.TemplateError, RecursionError, SyntaxError)) as error:
        environment.render(environment.from_string(template), messages=[])
    assert words in f"{type(error.value).__name__}: {error.value}"
    assert time.process_time() - began < 5


def test_memory_is_bounded() -> None:
    environment = Environment()
    tracemalloc.start()
    try:
        for case in ("concatenated", "blocks", "much constant text"):
            with pytest.raises(jinja2.TemplateError):
                environment.render(environment.from_string(BAD[case][0]), messages=[])
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_each_question_has_its_own_budget_and_a_long_one_fits() -> None:
    environment = Environment()
    template = environment.from_string(tiny.CHAT_TEMPLATE)
    question = "what? " * 20_000
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    for _ in range(300):
        assert question in environment.render(template, messages=messages, add_generation_prompt=True)


def test_it_computes_what_jinja2_computes() -> None:
    """Everything that is rewritten or paid for, against the sandbox that transformers uses."""
    source = (
        "{% set ns = namespace(n=0, out='') %}{% for a, b in [(1, 'x'), (2, 'y')] %}{% set ns.n = ns.n + a * 2 %}"
        "{% set ns.out = ns.out ~ b ~ a %}{{ loop.index }}{% endfor %}{{ ns.n }}{{ ns.out }}{{ 'a' * 3 }}{{ 2 ** 5 }}"
        "{{ 'x%dy' % 5 }}{{ 'a,b'.split(',')|join('-') }}{{ '{:>5}|{}'.format('a', 3) }}{{ ' x '|trim }}"
        "{{ {'a': [1, 'é']}|tojson }}{{ [3, 1, 2]|sort|first }}{{ 'abc'[::-1] }}{{ 'b' in 'abc' }}{{ 3 > 2 >= 1 }}"
        "{% macro m(x, y='d') %}<{{ x }}{{ y }}>{% endmacro %}{{ m('q') }}{{ m(1, y=2) }}{{ none }}{{ missing }}"
        "{% if messages[0].role is defined and messages[0]['role'] not in ('a', 'b') %}yes{% endif %}"
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ 'A' if 1 is odd else 'B' }}"
        "{{ 'a-b'.replace('-', '+') }}{{ 'x'.ljust(3) }}{{ 'abc'.startswith(('a', 'b')) }}"
        "{{ [1, 2] + [3] }}{{ (1, 2) }}"
    )
    messages = [{"role": "user", "content": "hi"}]
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment = Environment()
    expected = sandbox.from_string(source).render(messages=messages)
    # jinja2's own tojson escapes for HTML, transformers' doesn't.
    assert environment.render(environment.from_string(source), messages=messages) == expected.replace("\\u00e9", "é")
