"""A layout drawn in text: which rank holds what. Pure.

A small world is one line a rank. A large one is a grid of tensor groups, data replicas against pipeline places, with what each place of
each axis holds beside it: a rank's part is the sum of its places' parts.
"""

from collections.abc import Callable, Iterator, Sequence

from ..parallel.stages import Stage
from .holdings import Holding, Layout

MOST_RANKS = 64  # of a table with a line for each
MOST_ROWS, MOST_COLUMNS = 6, 6  # of a grid, before its middle is left out
GAP = "  "


def picture(layout: Layout) -> str:
    """The whole picture, several lines."""
    parts = ["\n".join(headline(layout))]
    if layout.topology.world_size <= MOST_RANKS:
        parts.append(rank_table(layout))
    else:
        parts += [grid(layout), *places(layout)]
    return "\n\n".join(parts)


def headline(layout: Layout) -> list[str]:
    """The layout in a line, and how it lies on the machines in another."""
    t = layout.topology
    factors = " x ".join(f"{axis} {getattr(t, axis)}" for axis in ("pp", "dp", "cp", "tp") if getattr(t, axis) > 1) or "the whole model"
    experts = f", experts over ep {t.ep}" if t.ep > 1 else ""
    ranks, nodes = counted(t.world_size, "rank"), counted(layout.num_nodes, "node")
    return [f"{ranks} on {nodes}: {factors}{experts}; {zero_in_words(layout)}", *_on_nodes(layout)]


def counted(number: int, what: str) -> str:
    """1 rank, 2 ranks."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def zero_in_words(layout: Layout) -> str:
    """What ZeRO cuts, and into how many pieces."""
    what = ("nothing is cut", "optimizer state", "optimizer state and gradients", "optimizer state, gradients and parameters")[layout.zero]
    return f"ZeRO-{layout.zero}: {what}" + (f" in {counted(layout.replicas, 'piece')}" if layout.zero else "")


def _on_nodes(layout: Layout) -> Iterator[str]:
    if layout.num_nodes == 1:
        return
    axes = [axis for axis in ("tp", "cp", "pp", "dp", "ep") if getattr(layout.topology, axis) > 1]
    inside = [axis for axis in axes if layout.inside_nodes(axis)]
    across = [axis for axis in axes if axis not in inside]
    said = [f"{', '.join(group)} {verb}" for group, verb in ((inside, "inside a node"), (across, "across nodes")) if group]
    yield "; ".join(said)
    if "tp" in across:
        yield (f"WARNING: the tensor axis leaves the node: parallel.tp={layout.topology.tp} does not divide its "
               f"{counted(layout.ranks_per_node, 'rank')}, and its all-reduces go over the slowest links")


def rank_table(layout: Layout) -> str:
    """One line for each rank; an axis of degree 1 has no column."""
    columns = list(_columns(layout))
    holdings = [layout.holding(rank) for rank in range(layout.topology.world_size)]
    return aligned([[title for title, _ in columns], *([show(each) for _, show in columns] for each in holdings)])


def _columns(layout: Layout) -> Iterator[tuple[str, Callable[[Holding], str]]]:
    t, model = layout.topology, layout.model
    yield "rank", lambda held: str(held.rank)
    if layout.num_nodes > 1:
        yield "node", lambda held: str(held.node)
    for axis in ("pp", "dp", "cp", "tp"):
        if getattr(t, axis) > 1:
            yield axis, lambda held, axis=axis: str(getattr(held.coordinate, axis))  # type: ignore[misc]
    yield ("stages" if t.pp > 1 else "layers"), lambda held: stages_in_words(held.stages, numbered=t.pp > 1)
    if t.tp > 1:
        yield "heads", lambda held: span(held.heads)
        if model.num_kv_heads != model.num_heads:
            yield "kv heads", lambda held: span(held.kv_heads)
        yield "vocabulary", lambda held: span(held.vocabulary) if any(s.first or s.last for s in held.stages) else "-"
    if t.cp > 1:
        yield "tokens", lambda held: spans(held.tokens)
    if model.num_experts:
        yield "experts", lambda held: span(held.experts)
    if layout.zero and layout.replicas > 1:
        yield f"ZeRO-{layout.zero} piece", lambda held: f"{held.share} of {layout.replicas}"


def grid(layout: Layout) -> str:
    """Data (and context) replicas down, pipeline places across; each cell one tensor group with its node."""
    t = layout.topology
    across = elided(range(t.pp), MOST_COLUMNS)
    rows = [["", *("..." if pp is None else f"pp {pp}" for pp in across)]]
    for dp in elided(range(t.dp), MOST_ROWS):
        if dp is None:
            rows.append(["...", *("..." for _ in across)])
            continue
        for cp in elided(range(t.cp), MOST_ROWS):
            name = f"dp {dp}" + ("" if t.cp == 1 else GAP + ("..." if cp is None else f"cp {cp}"))
            rows.append([name, *("..." if pp is None or cp is None else _cell(layout, pp, dp, cp) for pp in across)])
    return "ranks of each tensor group @ node\n" + aligned(rows)


def _cell(layout: Layout, pp: int, dp: int, cp: int) -> str:
    t = layout.topology
    first = ((pp * t.dp + dp) * t.cp + cp) * t.tp
    nodes = range(layout.node(first), layout.node(first + t.tp - 1) + 1)
    return f"{span(range(first, first + t.tp))} @{span(nodes)}"


def places(layout: Layout) -> Iterator[str]:
    """What each place of each axis holds."""
    t, model = layout.topology, layout.model
    yield aligned([["pipeline", "stages"], *_rows("pp", t.pp, lambda i: [stages_in_words(layout.stages_of(i), numbered=t.pp > 1)])])
    if t.tp > 1:
        yield aligned([["tensor", "heads", "kv heads", "vocabulary"], *_rows("tp", t.tp, lambda i: [
            span(layout.heads_of(i)), span(layout.kv_heads_of(i)), span(layout.vocabulary_of(i))])])
    if t.cp > 1:
        yield aligned([["context", "tokens"], *_rows("cp", t.cp, lambda i: [spans(layout.tokens_of(i))])])
    if model.num_experts:
        yield (aligned([["expert", "experts"], *_rows("ep", t.ep, lambda i: [span(layout.experts_of(i))])])
               + f"\nep = (dp x {t.cp} + cp) modulo {t.ep}")
    if layout.zero and layout.replicas > 1:
        yield f"ZeRO-{layout.zero}: the ranks at dp, cp hold piece dp x {t.cp} + cp of {layout.replicas}"


def _rows(axis: str, degree: int, describe: Callable[[int], list[str]]) -> list[list[str]]:
    """A row for each place of an axis; the middle of a long one is left out, but never of the pipeline, whose stages differ."""
    shown = list(range(degree)) if axis == "pp" else elided(range(degree), 2 * MOST_ROWS)
    return [["..."] if i is None else [f"{axis} {i}", *describe(i)] for i in shown]


def elided(numbers: range, most: int) -> list[int | None]:
    """The numbers, or of more than `most` the first ones, None, and the last."""
    if len(numbers) <= most:
        return list(numbers)
    return [*numbers[:most - 2], None, numbers[-1]]


def stages_in_words(stages: Sequence[Stage], *, numbered: bool) -> str:
    """As in `0: embedding, layers 0-3; 3: layers 12-15, head`."""
    return "; ".join((f"{stage.index}: " if numbered else "") + _stage(stage) for stage in stages)


def _stage(stage: Stage) -> str:
    layers = f"layer{'' if len(stage.layers) == 1 else 's'} {span(stage.layers)}"
    return ", ".join([*(["embedding"] if stage.first else []), layers, *(["head"] if stage.last else [])])


def span(numbers: range) -> str:
    """0-3, or 3, or none."""
    if not numbers:
        return "none"
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"


def spans(runs: Sequence[range]) -> str:
    """0-7, 56-63."""
    return ", ".join(span(run) for run in runs)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of even width, without blanks at the end."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return "\n".join(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows)
