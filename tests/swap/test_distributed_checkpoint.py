"""torch.distributed.checkpoint, in one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from swap.criteria import Make, assert_goes_on_alike, every_criterion, made, trained


@pytest.fixture
def process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process")
@every_criterion
def test_a_distributed_checkpoint_goes_into_a_fresh_model(make: Make, tmp_path: Path) -> None:
    model, fresh = trained(make), made(make, seed=1)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=tmp_path / "saved")
    state = {"model": get_model_state_dict(fresh)}
    dcp.load(state, checkpoint_id=tmp_path / "saved")
    set_model_state_dict(fresh, state["model"])
    assert_goes_on_alike(model, fresh)
