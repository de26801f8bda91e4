"""Ctrl-C at a hundred and fifty random moments of each command that runs long."""

import pytest

from tests.harness import MeshProcesses
from tests.interrupts import LONG, storm
from tests.meshes import mesh_fixture

pytestmark = pytest.mark.chaos

ROUNDS = 150


mesh = mesh_fixture({"web": ("web-1",)}, slots=64)


@pytest.mark.parametrize("name", LONG)
async def test_long_command_ends_at_ctrl_c_whatever_the_moment(
    mesh: MeshProcesses, name: str
) -> None:
    async with mesh.client() as admin:
        await admin.submit(["sleep", "100000"], group="web", id="endless")
    await storm(mesh, name, ROUNDS, seed=1)
