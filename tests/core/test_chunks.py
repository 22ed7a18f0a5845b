"""Rows are cut so that what meets in one sum is together, wherever it fits."""

import pytest
import torch

from equilog.core.chunks import as_chunks


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_a_group_that_fits_into_a_chunk_is_whole_in_one(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    groups = torch.randint(8, (40,), generator=generator) ** 2 // 7
    _, groups = groups.unique(return_inverse=True)
    rows = torch.randperm(100, generator=generator)[:40]
    chunks = as_chunks(rows, groups, size)
    assert torch.equal(torch.cat(chunks.all).sort().values, rows.sort().values)
    assert max(len(chunk) for chunk in chunks.all + chunks.open) <= size
    count = groups.bincount()
    assert {int(row) for chunk in chunks.open for row in chunk} == set(rows[count[groups] > size].tolist())
    group_of = dict(zip(rows.tolist(), groups.tolist(), strict=True))
    for number in (count <= size).nonzero().squeeze(1).tolist():
        assert sum(number in {group_of[int(row)] for row in chunk} for chunk in chunks.all) == 1
