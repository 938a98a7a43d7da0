"""Tests in a virtual machine with what most nodes have: cgroup v2, systemd, nft's queue.

The machine is a stock Debian with its own kernel, without a network, booted from a disk in the
lab's cache that is never written to. By default it is emulated in software, which works anywhere
and takes 20 to 30 times as long as the host's processor.
"""
