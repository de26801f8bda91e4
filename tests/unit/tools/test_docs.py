"""Generated pages are up to date, and a page that is not is found."""

import shutil
from pathlib import Path

import pytest

from tools import dashboards
from tools.docs import DASHBOARDS, README, ROOT, SECTIONS, generated, main, stale
from tools.sections import names, rewritten
from tools.session import rewritten as session_rewritten
from tools.session import shown

PAGES = sorted(generated())
every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the committed pages, as the generator writes them."""
    for page in PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    main([], tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def differing() -> dict[str, str]:
    return stale()


@every_page
def test_committed_page_is_what_is_generated(page: str, differing: dict[str, str]) -> None:
    assert page not in differing, "make docs"


def test_generator_covers_each_page_with_a_marker() -> None:
    folders = (ROOT, ROOT / "docs", ROOT / "docs/connections")
    pages = [path for folder in folders for path in folder.glob("*.md")]
    marked = {str(path.relative_to(ROOT)) for path in pages if names(path.read_text())}
    assert marked == set(SECTIONS)
    for page, makers in SECTIONS.items():
        assert sorted(names((ROOT / page).read_text())) == sorted(makers)


@every_page
def test_outdated_page_is_named_and_written_anew(
    page: str, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tree / page).read_text()
    _spoil(tree / page)
    assert main(["--check"], tree) == 1
    assert capsys.readouterr().out.split() == [page]
    assert (tree / page).read_text() != text
    assert main([], tree) == 0
    assert (tree / page).read_text() == text
    assert main(["--check"], tree) == 0


def _spoil(path: Path) -> None:
    """Takes out the last row of a generated section, or adds a line to a file made as a whole."""
    lines = path.read_text().splitlines(keepends=True)
    marks = [at for at, line in enumerate(lines) if line == "<!-- end -->\n"]
    if marks:
        del lines[marks[-1] - 2]
    else:
        lines.append("left from before\n")
    path.write_text("".join(lines))


def test_missing_file_is_generated(tree: Path) -> None:
    path = tree / "grafana" / "prometheus" / "rules.yaml"
    text = path.read_text()
    path.unlink()
    assert main([], tree) == 0
    assert path.read_text() == text


def test_prose_around_a_section_is_kept() -> None:
    page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n"
    assert rewritten(page, {"x": lambda: "new"}) == (
        "a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n"
    )
    with pytest.raises(KeyError):
        rewritten(page, {})


def test_recorded_answers_are_kept_and_new_queries_have_none() -> None:
    page = (ROOT / DASHBOARDS).read_text()
    row = next(line for line in page.splitlines() if line.startswith("| Uptime |"))
    answered = row.rpartition(" | ")[0] + " | 7: 7 |"
    assert answered in dashboards.rewritten(page.replace(row, answered))
    assert row.rpartition(" | ")[0] + " |  |" in dashboards.rewritten(page.replace(row, ""))


def test_session_is_put_between_its_markers() -> None:
    page = (ROOT / README).read_text()
    assert session_rewritten(page, shown(page)) == page
    assert shown(session_rewritten(page, ["$ mesh status"])) == ["$ mesh status"]
