"""A machine whose end is announced: its pods are saved in the plan's order, and leave.

::

    course      what is to be done at this moment, by the plan (pure)
    marks       what the node's object says of the end of its machine (pure)
    marking     writes that
    evacuation  hears of notices, plans again and again, and has the course taken

``docs/spot.md`` has the whole of it.
"""
