"""The report of cleaning as one page of HTML that needs nothing else: a table, a picture of what was lost where, examples to unfold."""

from html import escape
from typing import Any

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde3ea}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:#52606d}td small{color:#52606d}
details{margin:.4rem 0;border:1px solid #dde3ea;border-radius:6px;padding:.4rem .8rem}summary{cursor:pointer;font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f5f7fa;padding:.6rem;border-radius:4px;margin:.3rem 0 .8rem}
pre.before{border-left:4px solid #c0504d}pre.after{border-left:4px solid #3c8d5a}.where{color:#52606d;font-size:13px}
svg text{font:13px system-ui,sans-serif;fill:#1d2733}"""
_WIDTH, _LABELS, _BAR = 1000, 190, 26  # of the picture, in pixels


def page(state: dict[str, Any]) -> str:
    """The page.

    Args:
        state: of a CleanReport.
    """
    rules = state["rules"]
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Cleaning report</title>",
        f"<style>{_STYLE}</style></head><body><h1>What cleaning did</h1>",
        f"<p>{_count(state['documents_in'])} documents of {_size(state['bytes_in'])} came in, {_count(state['documents_out'])} of "
        f"{_size(state['bytes_out'])} ({_part(state['bytes_out'], state['bytes_in'])} of the bytes) went on.</p>",
        _waterfall(state),
        _table(state),
        "<h2>Examples</h2><p>Chosen by a hash of the document, so that they do not depend on how the work was shared.</p>",
        *(_examples(rule) for rule in rules),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _waterfall(state: dict[str, Any]) -> str:
    """Bytes before the first rule, and for each rule what went on (grey) and what went (red; green: added)."""
    whole = max([state["bytes_in"], *(rule["bytes_out"] for rule in state["rules"]), 1])
    scale = (_WIDTH - _LABELS - 90) / whole
    bars = []
    for number, rule in enumerate(state["rules"]):
        top, stays, gone = number * _BAR, min(rule["bytes_in"], rule["bytes_out"]) * scale, abs(rule["bytes_removed"]) * scale
        colour = "#c0504d" if rule["bytes_removed"] >= 0 else "#3c8d5a"
        bars.append(f"<text x=0 y={top + 17}>{escape(rule['rule'])}</text>"
                    f"<rect x={_LABELS} y={top + 3} width={stays:.2f} height={_BAR - 6} fill='#b8c4d0'></rect>"
                    f"<rect x={_LABELS + stays:.2f} y={top + 3} width={gone:.2f} height={_BAR - 6} fill='{colour}'></rect>"
                    f"<text x={_LABELS + stays + gone + 6:.2f} y={top + 17}>{_part(-rule['bytes_removed'], state['bytes_in'])}</text>")
    height = len(state["rules"]) * _BAR + 4
    return (f"<h2>Bytes that each rule left</h2><svg viewBox='0 0 {_WIDTH} {height}' width='100%' role=img "
            f"aria-label='bytes left by each rule'>{''.join(bars)}</svg>")


def _table(state: dict[str, Any]) -> str:
    heads = ("rule", "documents in", "removed", "changed", "documents out", "bytes in", "bytes removed", "bytes out")
    rows = []
    for rule in state["rules"]:
        details = ", ".join(f"{escape(name)} {_count(count)}" for name, count in sorted(rule["details"].items(), key=lambda pair: -pair[1]))
        keys = ("documents_in", "documents_removed", "changed", "documents_out", "bytes_in", "bytes_removed", "bytes_out")
        cells = [_count(rule[key]) for key in keys]
        rows.append(f"<tr><td>{escape(rule['rule'])}<br><small>{details}</small></td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    documents, size = (state["documents_in"], state["documents_out"]), (state["bytes_in"], state["bytes_out"])
    whole = ["all", _count(documents[0]), _count(documents[0] - documents[1]), "", _count(documents[1]),
             _count(size[0]), _count(size[0] - size[1]), _count(size[1])]
    foot = "".join(f"<th>{cell}</th>" for cell in whole)
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}<tr>{foot}</tr></table>"


def _examples(rule: dict[str, Any]) -> str:
    """Folded; nothing for a rule without any."""
    shown = []
    for example in [*rule["removed_examples"], *rule["changed_examples"]]:
        where = f"{escape(example['file'])}:{example['line']} &middot; {escape(example['detail'])}"
        after = f"<pre class=after>{escape(example['after'])}</pre>" if example["detail"] == "changed" else ""
        shown.append(f"<div class=where>{where}</div><pre class=before>{escape(example['before'])}</pre>{after}")
    return f"<details><summary>{escape(rule['rule'])} ({len(shown)})</summary>{''.join(shown)}</details>" if shown else ""


def _count(number: int) -> str:
    return f"{number:,}"


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, factor in {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}.items():
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} bytes"


def _part(count: int, whole: int) -> str:
    return f"{100 * count / whole:.2f} %" if whole else "0 %"
