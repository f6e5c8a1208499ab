"""The benchmarks: `make bench`, or `python -m tests.load.bench --help`."""
