"""The node daemon: policy on its node.

It decides when a pod is idle and asks the keeper to put it to sleep, keeps labels, requests,
conditions and objects in the API true, installs the runtime on the host, and looks after the
images on disk. Nothing of it is needed to wake a pod.
"""
