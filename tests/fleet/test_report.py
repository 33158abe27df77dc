"""The report: complete, offline, without scripts, and safe whatever a host said."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_survey import host_view, survey

from fleet.compatibility.verdict import Verdict
from fleet.record.views import KernelView
from fleet.report.build import SCHEMA, write_report
from fleet.report.model import GLYPHS, Survey, make_report, natural, page_name, representatives

HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}'"""


class Tags(html.parser.HTMLParser):
    """Collects tags, links and attribute names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    return tags


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_report(survey(), tmp_path_factory.mktemp("report"))


def test_one_page_per_kernel_an_index_and_json(pages: list[Path]) -> None:
    assert pages[0].name == "index.html"
    assert pages[-1].name == "report.json"
    assert {p.name for p in pages[1:-1]} == {page_name(k) for k in survey().kernels}
    assert all(p.stat().st_size > 500 for p in pages)
    assert not list(pages[0].parent.rglob("*.part"))


def test_pages_are_static_and_offline(pages: list[Path]) -> None:
    for page in pages[:-1]:
        tags = read(page)
        assert not tags.tags & {"script", "link", "img", "iframe", "object", "form"}, page
        assert not [a for a in tags.attributes if a.startswith("on")], page
        assert not [x for x in tags.links if "//" in x], page
        assert "url(" not in page.read_text()
        for link in tags.links:
            assert (page.parent / link).resolve().exists(), (page, link)


def test_the_index_links_every_kernel(pages: list[Path]) -> None:
    assert {f"kernels/{p.name}" for p in pages[1:-1]} <= set(read(pages[0]).links)


def test_a_verdict_is_never_colour_alone(pages: list[Path]) -> None:
    for page in pages[:-1]:
        for verdict, glyph in re.findall(
            r'class="verdict (\w+)"><span class="glyph" aria-hidden="true">(.)', page.read_text()
        ):
            assert GLYPHS[Verdict(verdict)] == glyph
        spoken = re.findall(r'class="verdict (\w+)">.*?</span>([^<]+)</span>', page.read_text())
        assert spoken
        assert all(word == text for word, text in spoken)
    assert "prefers-color-scheme: dark" in pages[0].read_text()


def test_it_says_what_runs_what_does_not_why_and_what_unlocks_it(pages: list[Path]) -> None:
    lab = next(p for p in pages if "6.18.44" in p.name).read_text()
    said = ("Runs on 5 of 6 hosts.", "denied (EPERM)", "denied (ENOSYS)", "seccomp.mode", "install python3")
    said += (
        "allow bpf() in the service&#39;s seccomp profile",
        "seccomp-eperm",
        "What it does not give",
        "rtt of short",
    )
    for words in said:
        assert words in lab, words
    index = pages[0].read_text()
    for words in ("+2</b>", "import BTF for 2 kernel builds", "COR-SSH-002", "its host key changed", "14 hosts"):
        assert words in index, words


def test_json_says_the_same_with_every_host(pages: list[Path]) -> None:
    body = json.loads(pages[-1].read_text())
    assert body["schema"] == SCHEMA
    assert body["hosts"] == {"total": 14, "by_reach": {"reachable": 12, "refused": 1, "unreachable": 1}}
    tcp = next(s for s in body["programs"] if s["program"] == "tcp-flow")
    assert sum(tcp["verdicts"].values()) == 12
    grouped = [h for k in body["kernels"] for s in k["programs"] for g in s.get("groups", ()) for h in g["hosts"]]
    assert sorted(grouped) == sorted(c.host for c in survey().choices)
    seccomp = next(u for u in body["unlocks"] if u["codes"] == ["allow-bpf-seccomp"])
    assert seccomp["gains"] == [{"program": "tcp-flow", "variant": "core", "hosts": 2}]
    assert seccomp["hosts"] == ["seccomp-enosys", "seccomp-eperm"]
    assert all((pages[0].parent / k["page"]).exists() for k in body["kernels"])


def test_what_a_host_said_stays_text(tmp_path: Path) -> None:
    said = survey()
    choices = [
        dataclasses.replace(
            c,
            summary=HOSTILE,
            assessments=tuple(
                dataclasses.replace(
                    a,
                    lost=(HOSTILE,),
                    reasons=tuple(dataclasses.replace(r, detail=HOSTILE, source=HOSTILE) for r in a.reasons),
                )
                for a in c.assessments
            ),
        )
        for c in said.choices
    ]
    kernels = [dataclasses.replace(k, release=HOSTILE, os_name=HOSTILE, arch=HOSTILE) for k in said.kernels]
    hosts = [*said.hosts, host_view("evil", None, "", reach="unreachable", reach_detail=HOSTILE, reach_code=HOSTILE)]
    pages = write_report(dataclasses.replace(said, choices=choices, kernels=kernels, hosts=hosts), tmp_path)
    for page in pages[:-1]:
        tags = read(page)
        assert not tags.tags & {"script", "img"}
        assert not [a for a in tags.attributes if a.startswith("on")]
        assert HOSTILE in "".join(tags.text)  # shown as it was said, evaluated nowhere
        assert page.parent.resolve() in (tmp_path, tmp_path / "kernels")


def test_pages_of_kernels_that_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    said = survey()
    write_report(said, tmp_path)
    own = tmp_path / "kernels" / "notes.txt"
    own.write_text("mine")
    write_report(dataclasses.replace(said, kernels=said.kernels[:1]), tmp_path)
    assert sorted(p.name for p in (tmp_path / "kernels").iterdir()) == sorted(["notes.txt", page_name(said.kernels[0])])


def test_an_empty_fleet_has_a_report(tmp_path: Path) -> None:
    pages = write_report(Survey(0.0, [], [], [], []), tmp_path)
    assert [p.name for p in pages] == ["index.html", "report.json"]
    assert "No kernel is known yet" in pages[0].read_text()


def test_hosts_alike_share_a_group_and_every_host_is_in_one() -> None:
    report = make_report(survey())
    lab = report.kernels[0]
    section = next(s for s in lab.sections if s.program.name == "tcp-flow")
    assert next((g.letter, len(g.hosts), g.verdict) for g in section.groups) == ("A", 2, Verdict.FITS)
    assert sum(len(g.hosts) for g in section.groups) == section.total == 6
    assert {d.fact for d in section.differences} >= {"seccomp.mode", "btf.vmlinux", "python.path"}
    assert len(representatives(survey().choices)) == sum(len(s.groups) for k in report.kernels for s in k.sections)


def test_bars_fill_their_width() -> None:
    for section in make_report(survey()).sections:
        if section.total:
            assert sum(s.width for s in section.segments) == pytest.approx(1000)
            assert sum(s.count for s in section.segments) == section.total


def test_page_names_are_safe_and_distinct() -> None:
    kernel = KernelView("id-1/x86_64", "../../etc/passwd\x1b[31m", "", "x86_64", "", None, 0.0, 1)
    assert re.fullmatch(r"[A-Za-z0-9.-]+\.html", page_name(kernel))
    assert "/" not in page_name(kernel)
    assert page_name(kernel) != page_name(dataclasses.replace(kernel, id="id-2/x86_64"))


def test_releases_sort_as_people_count() -> None:
    releases = ["5.10.0", "5.4.0", "6.1.0", "4.18.0-147.5.1.el8", "4.18.0-80.el8"]
    assert sorted(releases, key=natural) == ["4.18.0-80.el8", "4.18.0-147.5.1.el8", "5.4.0", "5.10.0", "6.1.0"]
