"""Texts and the encoder that reads them."""

import pytest
import torch
from benchmarks.quality.tasks import texts

from equilog.compare.errors import DataError


@pytest.mark.slow
def test_the_layers_that_are_trained_go_on_from_those_that_are_not():
    try:
        model, tokenizer = texts.encoder()
        (first, *_), codes = texts.texts()
    except DataError as error:
        pytest.skip(str(error))
    assert codes.tolist() == sorted(codes.tolist())
    tokens = tokenizer([first], truncation=True, max_length=texts.TOKENS, return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).last_hidden_state.mean(1)
        hidden = model(**tokens, output_hidden_states=True).hidden_states[texts.LOWER]
        padded = torch.nn.functional.pad(torch.cat((hidden, torch.ones_like(hidden[..., :1])), 2), (0, 0, 0, 5))
        found = texts.Top(2, trained=True).eval().mean(padded)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
