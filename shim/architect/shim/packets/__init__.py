"""The packet side of the keeper: count, hold, judge and release what reaches a pod.

Three layers. Pure: `headers`, `gate`, `quiescence`, `origin.classify`, `connections`. Kernel
interfaces: `netlink`, `netns`, `nftables`, `nfqueue`, `sockdiag`, `owners`, `addresses`,
`keepalive`. Effects that tie them together: `ruleset`, `hold`, `watch`, `origin.Origins`.
"""
