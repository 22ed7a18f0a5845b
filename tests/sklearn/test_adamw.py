import torch

from equilog.sklearn.adamw import AdamW


def test_a_step_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(7, 3, generator=generator), torch.randn(3, generator=generator), torch.zeros(2)]
    theirs = [parameter.clone() for parameter in ours]
    optimizers = (AdamW(ours, 0.01, 0.1), torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1))
    for _ in range(5):
        gradients = [torch.randn(7, 3, generator=generator), torch.randn(3, generator=generator), None]
        for optimizer, parameters in zip(optimizers, (ours, theirs), strict=True):
            optimizer.zero_grad()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    for parameter, same in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter, same, rtol=0, atol=0)
