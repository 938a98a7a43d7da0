"""The development cluster: Kubernetes, and single machines, made from Linux namespaces on one host.

``python -m lab --help`` says what it can do; docs/development-cluster.md says how and why.
"""
