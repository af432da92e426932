from __future__ import annotations

import pytest

from ext_proc.hub.store import tree
from ext_proc.hub.store.faults import QueryError

PRINTED = """SelectWithUnionQuery (children 2)
 ExpressionList (children 1)
  Function file (alias x) (children 1)
   ExpressionList
 Identifier JSON
"""


def test_parse() -> None:
    root = tree.parse(PRINTED)
    assert [(node.kind, node.text, parent and parent.kind) for node, parent in root.walk()] == [
        ("SelectWithUnionQuery", "", None),
        ("ExpressionList", "", "SelectWithUnionQuery"),
        ("Function", "file", "ExpressionList"),
        ("ExpressionList", "", "Function"),
        ("Identifier", "JSON", "SelectWithUnionQuery"),
    ]


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "\n",
        "A (children 1)\n",
        "A\n B\n",
        "A (children 1)\n  B\n",
        "A\nB\n",
        PRINTED.replace("(alias x)", "(alias x\ny)"),
        PRINTED.replace("(alias x)", "(alias x\n   TableIdentifier y)"),
        PRINTED.replace("(alias x)", "(alias x) (children 0)\n  B"),
    ],
)
def test_what_does_not_add_up_is_refused(printed: str) -> None:
    with pytest.raises(QueryError) as raised:
        tree.parse(printed)
    assert raised.value.code == 497
