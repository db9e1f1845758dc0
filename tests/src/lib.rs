//! What the black-box suites and the benchmarks share: a cluster under test and its clients.
