"""The report: honest curves, sound files, and no run that it cannot draw."""

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hexareme.core.metrics import MetricsLog, StepMetrics, ValidationMetrics
from hexareme.core.report import read_run, summary, write_report
from hexareme.core.report_figures import scientific, smooth, thin
from hexareme.launcher.cli import main
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

EXAMPLE = StepMetrics(step=1, samples_seen=8, tokens_seen=1024, loss=10.5, grad_norm=1.25, learning_rate=3e-4, step_seconds=0.5,
                      tokens_per_second=2048.0, model_flops_utilization=None, memory_bytes=2**30)
NAMES = ["loss.png", "learning_rate.png", "gradient_norm.png", "throughput.png", "report.html"]


def make_run(folder, *, steps, bad=(), mfu=None, ended=True):
    folder.mkdir(parents=True)
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(1, steps + 1):
            loss = float("nan") if step in bad else 2 + 8 / step
            log.record(replace(EXAMPLE, step=step, tokens_seen=1024 * step, loss=loss, model_flops_utilization=mfu))
            if step % 10 == 0:
                log.record(ValidationMetrics(step=step, validation_loss=2.1 + 8 / step, validation_perplexity=9.0))
    if ended:
        (folder / "exit.json").write_text(json.dumps({"code": 0, "reason": "completed"}))
        (folder / "config.yaml").write_text("train:\n  steps: 3 # <script>alert(1)</script>\n")
    return folder


class Page(HTMLParser):
    """Collects what a browser would load and show; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.shown, self.tags = [], [], [], "", set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.links += [value for name, value in attrs if name in ("href", "src") and not value.startswith("data:")]
        if tag == "img":
            self.images.append(base64.b64decode(attributes["src"].partition("base64,")[2]))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("steps", "bad"), [(0, ()), (1, ()), (1, (1,)), (2, ()), (300, (7, 8, 200))])
def test_every_run_is_drawn(tmp_path, steps, bad):
    run = make_run(tmp_path / "x", steps=steps, bad=bad)
    files = write_report([run], run / "report")
    assert [file.name for file in files] == NAMES
    for file in files[:-1]:
        image = Image.open(file)
        image.load()
        assert image.size == (1200, 600)
    page = Page(files[-1].read_text())
    assert page.open == []
    assert page.links == []  # self-contained
    assert page.images == [file.read_bytes() for file in files[:-1]]
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.shown


def pixels(path, color):
    """Where a picture has about this colour: columns and rows."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    rows, columns = np.where(np.abs(image - np.array(color)).max(axis=2) < 25)
    return columns, rows


def test_the_loss_curve_falls_where_the_loss_falls(tmp_path):
    write_report([make_run(tmp_path / "x", steps=300)], tmp_path / "out")
    columns, rows = pixels(tmp_path / "out" / "loss.png", (0x25, 0x63, 0xEB))
    left, right = rows[columns < np.quantile(columns, 0.2)].mean(), rows[columns > np.quantile(columns, 0.8)].mean()
    assert right > left + 50  # rows count from the top


def test_a_step_that_is_not_finite_is_marked(tmp_path):
    marks = {}
    for bad in ((), (50,)):
        write_report([make_run(tmp_path / f"x{len(bad)}", steps=100, bad=bad)], tmp_path / f"out{len(bad)}")
        marks[bad] = pixels(tmp_path / f"out{len(bad)}" / "loss.png", (0xDC, 0x26, 0x26))[0].size
    assert marks[()] == 0 < marks[(50,)]


def test_summary_says_what_happened(tmp_path):
    table = summary(read_run(make_run(tmp_path / "x", steps=20, bad=(3,), mfu=0.25)))
    assert table["Steps"] == "20"
    assert table["Final loss"] == "2.4000"
    assert table["Final validation loss"] == "2.5000"
    assert table["Best validation loss"] == "2.5000 at step 20"
    assert table["Tokens seen"] == "20,480"
    assert table["Tokens/s, median"] == "2,048"
    assert table["Time in steps"] == "0:10"
    assert table["Peak memory of rank 0"] == "1.00 GiB"
    assert table["MFU, median"] == "25.0%"
    assert table["Steps with non-finite numbers"] == "1"
    assert table["Ended"] == "completed (exit code 0)"


def test_a_running_run_says_so(tmp_path):
    table = summary(read_run(make_run(tmp_path / "x", steps=3, ended=False)))
    assert table["Ended"] == "not yet, or killed"
    assert table["Final validation loss"] == "none"


def test_several_runs_stand_side_by_side(tmp_path):
    runs = [make_run(tmp_path / name, steps=steps) for name, steps in (("first", 30), ("second", 40))]
    files = write_report(runs, tmp_path / "out")
    text = files[-1].read_text()
    assert re.search(r"<tr><th>Steps</th><td>30</td><td>40</td></tr>", text)
    assert pixels(files[0], (0x25, 0x63, 0xEB))[0].size and pixels(files[0], (0xD9, 0x77, 0x06))[0].size


def test_the_command_prints_where_the_files_lie(tmp_path, capsys):
    run = make_run(tmp_path / "x", steps=5)
    assert main(["report", f"directory={run}"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(run / "report" / name) for name in NAMES]


@pytest.mark.parametrize("content", [None, b'{"step": 1}\n{"st\n{"step": 3}\n'])
def test_the_command_refuses_a_folder_without_a_sound_run(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    assert main(["report", f"directory={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ERROR 2 ") and str(tmp_path / "metrics.jsonl") in said and "(do: " in said and said.count("\n") == 1


def test_drawing_needs_neither_torch_nor_pyplot(tmp_path):
    run = make_run(tmp_path / "x", steps=3)
    code = (f"import sys; from hexareme.core.report import write_report; write_report([{str(run)!r}], {str(tmp_path / 'out')!r})\n"
            "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


finite_or_not = st.floats(-100, 100) | st.just(float("nan"))


@given(st.lists(finite_or_not, max_size=60), st.integers(1, 20))
def test_smooth_is_the_mean_of_its_window(values, window):
    found = smooth(np.array(values, dtype=float), window)
    for index, value in enumerate(found):
        left = min(index, window // 2)
        inside = [v for v in values[index - left:index + min(left, len(values) - 1 - index) + 1] if np.isfinite(v)]
        assert value == pytest.approx(np.mean(inside), abs=1e-9) if inside else np.isnan(value)


@given(st.lists(finite_or_not, min_size=1, max_size=300))
def test_thin_keeps_order_and_every_extreme(values):
    steps, column = np.arange(1.0, len(values) + 1), np.array(values)
    kept_steps, kept = thin(steps, column, 20)
    assert np.all(np.diff(kept_steps) > 0)
    assert kept_steps.size <= max(20, 20)
    assert np.array_equal(column[kept_steps.astype(int) - 1], kept, equal_nan=True)
    finite = column[np.isfinite(column)]
    if finite.size:
        assert np.nanmin(kept) == finite.min() and np.nanmax(kept) == finite.max()


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (3e-4, "3e-4"), (2.5e-5, "2.5e-5"), (0.1, "1e-1"), (1.0, "1e0")])
def test_scientific(value, text):
    assert scientific(value) == text


def test_a_long_run_is_drawn_quickly(tmp_path):
    count = 200_000
    line = json.dumps({"step": 0, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-3, "step_seconds": 0.1, "tokens_seen": 1,
                       "tokens_per_second": 10.0, "model_flops_utilization": None, "memory_bytes": 1})
    buffer = io.StringIO()
    for step in range(1, count + 1):
        buffer.write(line.replace('"step": 0', f'"step": {step}').replace('"tokens_seen": 1', f'"tokens_seen": {step * 8}') + "\n")
    (tmp_path / "metrics.jsonl").write_text(buffer.getvalue())
    files = write_report([tmp_path], tmp_path / "report")
    assert sum(file.stat().st_size for file in files) < 2e6
