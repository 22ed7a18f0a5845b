"""A study on real data: when does which loss help? `python -m benchmarks.quality`, written up in docs/study.md."""
