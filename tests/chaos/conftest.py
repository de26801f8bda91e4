"""The template of a mesh, made once per worker, and the worlds made of it."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.world import World, make_template

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(make_template(tmp_path_factory.mktemp("template")))


@pytest.fixture
def world_of(
    request: pytest.FixtureRequest, tmp_path: Path, template: Path, seed: int
) -> MakeWorld:
    """Makes the world of one fault; its name is that of the test: `test_f21_…` is F21."""

    def make(**options: Any) -> World:  # noqa: ANN401  as the constructor's
        fault = request.node.name.split("[")[0].split("_")[1].upper()
        variant = request.node.callspec.params.get("variant")
        name = fault if variant is None else f"{fault}-{variant}"
        return World(tmp_path, template, name, seed, **options)

    return make


def seeds() -> tuple[int, ...]:
    """One, two, three, or as many as MESH_CHAOS_SEEDS says."""
    return tuple(range(1, int(os.environ.get("MESH_CHAOS_SEEDS", "3")) + 1))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault runs with each seed; of those in the smoke test, the first seed runs there."""
    if "seed" not in metafunc.fixturenames:
        return
    is_smoke = metafunc.definition.get_closest_marker("first_seed_smokes") is not None
    marks = [[pytest.mark.smoke] if is_smoke and seed == 1 else [] for seed in seeds()]
    metafunc.parametrize(
        "seed",
        [pytest.param(seed, marks=mark) for seed, mark in zip(seeds(), marks, strict=True)],
    )
