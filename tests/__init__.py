"""All tests. A package, since dependencies of the benchmarks install one of this name, too."""
