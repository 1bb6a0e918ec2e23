"""What the package is measured against: `python -m benchmarks`; docs/performance.md says how to read it.

limits      what this machine can do: matrix products and memory
agreement   whether two sides computed the same
race        sides timed in turns, in one process, their values compared every round
memory      the peak of one call, in a process of its own
goals       what each part must reach, as data
record      one measured line: for people a table, for programs JSON
parts/      one file a part
"""
