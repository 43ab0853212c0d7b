"""The HTML of a report: one file, images inside, nothing loaded from anywhere. Pure."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --paper: #ffffff; --card: #f9fafb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --muted: #9ca3af; --line: #374151; --paper: #111827; --card: #1f2937; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1.25rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin-bottom: 1.75rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.5rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { color: var(--muted); font-weight: 400; }
.scroll { overflow-x: auto; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
img { width: 100%; height: auto; display: block; border: 1px solid var(--line); border-radius: 8px; }
details { margin-top: 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; font-size: 13px; }
footer { margin-top: 2rem; color: var(--muted); font-size: 13px; }
"""


def page(names: Sequence[str], summaries: Sequence[Mapping[str, str]], images: Mapping[str, bytes], configs: Sequence[str]) -> str:
    """The whole page.

    Args:
        names, summaries, configs: of each run, in the same order; a config is YAML text, empty if unknown.
        images: figure name -> PNG.
    """
    title = escape(" and ".join(names))
    figures = "\n".join(f'<img alt="{escape(name.replace("_", " "))}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
                        for name, image in images.items())
    details = "\n".join(f"<details><summary>Config of {escape(name)}</summary><pre>{escape(config)}</pre></details>"
                        for name, config in zip(names, configs, strict=True) if config)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{_table(names, summaries)}
<div class="figures">
{figures}
</div>
{details}
<footer>Written by <code>hexareme report</code> from metrics.jsonl.</footer>
</body>
</html>
"""


def _table(names: Sequence[str], summaries: Sequence[Mapping[str, str]]) -> str:
    """One row for each fact, one column for each run."""
    facts = list(dict.fromkeys(fact for summary in summaries for fact in summary))
    header = "".join(f"<th>{escape(name)}</th>" for name in names) if len(names) > 1 else ""
    rows = "\n".join(f"<tr><th>{escape(fact)}</th>{_cells(summary.get(fact, '') for summary in summaries)}</tr>" for fact in facts)
    head = f"<thead><tr><th></th>{header}</tr></thead>" if header else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{rows}\n</tbody></table></div>'


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)
