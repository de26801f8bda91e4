"""The state directory of a mesh, made once for each module: its keys take long to make."""

import pytest

from broker_master.ca.mesh import Mesh, init_mesh


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return init_mesh(tmp_path_factory.mktemp("mesh") / "state")
