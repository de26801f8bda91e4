"""Views of the mesh of a module; the fixture `mesh` is its own (`tests.meshes.mesh_fixture`)."""

from collections.abc import AsyncIterator

import pytest

from broker_client.api import MeshClient
from tests.harness import MeshProcesses
from tests.meshes import Behind, behind


@pytest.fixture
async def admin(mesh: MeshProcesses) -> AsyncIterator[MeshClient]:
    async with mesh.client() as client:
        yield client


@pytest.fixture
async def inside(mesh: MeshProcesses) -> AsyncIterator[Behind]:
    """A stock connection with the rights of a master."""
    async with behind(mesh) as probe:
        yield probe
