"""The report: what a run made and what it lost, on one page that opens offline, with examples to look at.

Sentences are read one by one, so a large run takes time, not memory. Up to 10,000 sentences the ledger recounts every file;
beyond that the counts of the manifests stand in for it (--recount: recount all the same). The same run gives the same bytes.

reads   data/few_shot/<file_name>/ and its run <save_type_name>/, as far as they are there
writes  <save_type_name>/report.html, and the charts as <save_type_name>/report/*.png and *.svg (with matplotlib)
run     python syn_pipelines/report.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import base64
import html
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.reporting.content import content_of
from syn_pipelines.reporting.page import TITLES, page
from syn_pipelines.tools import ledger
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import replacing
from syn_pipelines.utils.options import TextOptions, between, load_options, option
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.summary import run_script

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the report."""

    sample: int = option(200, "sentences to browse, half of them synthetic", check=between(0, 5000))
    recount: bool = option(False, "recount the rows of all files, however many there are (2 to 3 ms each)")
    charts: bool = option(True, "draw the charts; 0: tables only, which saves some seconds")
    json: bool = option(False, "print the figures as one JSON line")
    label_prefix: str = option("", "what stands before extension labels, for files without a manifest")
    entity_label: str = option(str(ledger.KNOWLEDGE / "entity_label.json"), "label map of entity types")
    pos_label: str = option(str(ledger.KNOWLEDGE / "pos_label.json"), "label map of POS tags")


@dataclass
class Report:
    """A finished report. content: its figures, as JSON values. files: what was written, the page first."""

    paths: RunPaths
    content: dict[str, Any]
    files: list[Path] = field(default_factory=list)

    @property
    def page(self) -> Path:
        """The page."""
        return self.files[0]

    def as_dict(self) -> dict[str, Any]:
        """The figures without the sample, and the files."""
        return {"files": [str(path) for path in self.files], **{k: v for k, v in self.content.items() if k != "sample"}}

    def __str__(self) -> str:
        account = "the counts of the manifests"
        if self.content["recounted"]:
            findings = len(self.content["problems"])
            account = "recounted, balanced" if self.content["balanced"] else f"recounted, {findings} findings"
        missing = [step["key"] for step in self.content["steps"] if step["state"] == "not run yet"]
        later = f"; not run yet: {', '.join(missing)}" if missing else ""
        charts = f"\n  charts in {self.files[1].parent}" if len(self.files) > 1 else ""
        return (f"report: {self.page} ({self.page.stat().st_size / 1e6:.1f} MB)\n"
                f"  {self.content['rows']:,} sentences, {account}{later}{charts}")

    def show(self, height: int = 720) -> None:
        """Show the page in a notebook, in a frame of that many pixels. The output holds the page itself, no path to it.

        Raises:
            UserError: this is no notebook.
        """
        ipython = sys.modules.get("IPython")
        if not ipython or not ipython.get_ipython():
            raise UserError(f"{self.page}: can be shown in a notebook only. Open it in a browser.")
        # In a srcdoc frame the page's links to its own parts would lead to the notebook.
        content = base64.b64encode(self.page.read_bytes()).decode()
        frame = (f'<iframe src="data:text/html;charset=utf-8;base64,{content}" title="Report" style="width:100%;height:'
                 f'{int(height)}px;border:1px solid rgba(127,127,127,.4);border-radius:8px"></iframe>')
        ipython.display.display({"text/html": frame, "text/plain": str(self)}, raw=True)

    def _repr_html_(self) -> str:
        return f'<p>Report: <a href="{html.escape(str(self.page))}"><code>{html.escape(str(self.page))}</code></a></p>'


def run(opts: Options) -> Report:
    """Make the report of what is there.

    Raises:
        UserError: there is no such run, or a file of it is broken.
    """
    paths = RunPaths.of(opts)
    case = ledger.opened(opts)
    logging.getLogger(__name__).info("report: reading %s", paths.run)
    with lock(paths.journals, "report"):
        content = content_of(opts, case)
        charts, drawn = _drawn(content) if opts.charts else ({}, True)
        report = Report(paths, content, [paths.run / "report.html"])
        _write(report.page, page(content, charts, drawn=drawn).encode("utf-8", "replace"))
        report.files += _write_charts(paths.run / "report", charts, opts.charts and drawn)
    return report


def _drawn(content: Mapping[str, Any]) -> tuple[dict[str, dict[str, bytes]], bool]:
    """The charts, and whether there is anything to draw them with."""
    from syn_pipelines.reporting.charts import draw

    try:
        return draw(content), True
    except ImportError as err:
        log.warning("No charts, tables only: %s (pip install matplotlib).", err)
        return {}, False


def _write_charts(folder: Path, charts: Mapping[str, Mapping[str, bytes]], drawn: bool) -> list[Path]:
    """Write the charts; those of an earlier report that have nothing to show any more go."""
    written = []
    for name, files in charts.items():
        for kind, data in files.items():
            written.append(folder / f"{name}.{kind}")
            _write(written[-1], data)
    for name in TITLES if drawn else ():
        for kind in ("png", "svg"):
            if name not in charts:
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
    return written


def _write(path: Path, data: bytes) -> None:
    """Nothing is written where nothing has changed."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder where the report writes a file. Move it away.")
    if not path.is_file() or path.read_bytes() != data:
        with replacing(path) as file:
            file.write(data)


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Report:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    report = run(opts)
    if cmd_args is not False:
        show(json.dumps(report.as_dict(), ensure_ascii=False) if opts.json else str(report))
    return report


if __name__ == "__main__":
    run_script(main)
