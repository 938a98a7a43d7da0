"""A thin layer over the Kubernetes API: connections, patches, events, watches, our own objects.

Objects are the plain JSON the server sent; only what we decide upon has a type of its own. Every
request is bounded in time, and every failure leaves this package as one of our errors
(:mod:`architect.kube.errors`). The client library is imported by :mod:`architect.kube.connection`
alone.
"""
