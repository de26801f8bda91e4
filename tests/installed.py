"""The product's wheel in an environment of its own, with what it asks for and no more."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[1]
NAME: Final = "agent-mesh"
BUILD_S: Final = 120


def build_wheel(into: Path) -> Path:
    """The wheel of this tree, made without a network."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)])
    (wheel,) = into.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, *extras: str) -> Path:
    """An environment with `wheel`; returns the folder of its programs.

    What the wheel depends on is linked from the environment that runs the tests, as far as its
    metadata asks for it with these extras: nothing is fetched.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    options = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    _run([*pip, "--python", str(python), *options, str(wheel)])
    (site,) = folder.glob("lib/python*/site-packages")
    for each in needed(extras):
        _link(each, site, folder / "bin")
    return folder / "bin"


def needed(extras: tuple[str, ...]) -> list[Distribution]:
    """Requirements of the product with `extras`, and theirs in turn."""
    found: dict[str, Distribution] = {}
    open_ = list(_asked(distribution(NAME), extras))
    while open_:
        wanted = open_.pop()
        if wanted.name not in found:
            found[wanted.name] = distribution(wanted.name)
            open_ += _asked(found[wanted.name], tuple(wanted.extras))
    return list(found.values())


def _asked(of: Distribution, extras: tuple[str, ...]) -> Iterator[Requirement]:
    for text in of.requires or ():
        wanted = Requirement(text)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": each}) for each in ("", *extras)):
            yield wanted


def _link(found: Distribution, site: Path, programs: Path) -> None:
    """Link what a distribution has put beside others: packages, modules and programs."""
    here = Path(str(found.locate_file("")))
    for file in found.files or ():
        first = file.parts[0]
        if first != "..":
            target, source = site / first, here / first
        elif file.parts[-2] == "bin":
            target, source = programs / file.name, Path(str(file.locate()))
        else:
            continue
        if not target.is_symlink() and first != "__pycache__":
            target.symlink_to(source.resolve())


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=BUILD_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
