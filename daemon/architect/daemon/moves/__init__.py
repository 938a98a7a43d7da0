"""Pods that leave this node with their state, and pods that come to it."""
