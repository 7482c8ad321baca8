"""What Grafana sends: the expressions of a dashboard, its macros and its variables filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from grafana.prometheus import Prometheus

LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
#: Four scrapes, one a second, and one more as a busy computer makes some of them late.
RATE_INTERVAL = "5s"


def without_macros(expr: str, macros: Mapping[str, str]) -> str:
    return re.sub(r"\$\w+", lambda found: macros.get(found[0], found[0]), expr)


def offered(seen: Prometheus, variable: Mapping[str, Any], macros: Mapping[str, str]) -> list[str]:
    """What one may choose: values of a label, or what the regex of the variable has of them."""
    query = LABEL_VALUES.fullmatch(variable["definition"])
    assert query is not None, variable["definition"]
    found = seen.label_values(query[2], without_macros(query[1], macros))
    regex = re.compile(variable["regex"].strip("/"))
    parts = [part for value in found if (part := regex.search(value))]
    return [part[1] if regex.groups else part.string for part in parts]


def macros_of(seen: Prometheus, page: Mapping[str, Any], end: float) -> dict[str, str]:
    """With everything chosen, and all the time shown from the start to ``end``."""
    macros = {"$__range": f"{int(end - seen.start)}s", "$__rate_interval": RATE_INTERVAL}
    for variable in page["templating"]["list"]:
        if variable["type"] == "query":
            every = variable["allValue"] or f"({'|'.join(offered(seen, variable, macros))})"
            macros[f"${variable['name']}"] = every
    return macros
