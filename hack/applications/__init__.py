"""Real applications as pods: each is loaded, sleeps, wakes, and proves that nothing was lost.

``catalogue`` says what they are, ``trial`` what each goes through; the tests of the cluster and the
command that writes ``docs/workloads.md`` use the same two.
"""
