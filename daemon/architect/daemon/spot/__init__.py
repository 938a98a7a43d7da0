"""A node that is taken back: who of its pods is saved inside the notice, and by when.

::

    survey      the node's pods as they are now, for the planner
    inputs      what the planner is told: pods, rates, bounds, the deadline
    pipeline    the model: how long capturing and sending take (pure)
    planner     who is saved, in which order, by when; what would help who is not (pure)
    need        how long all of a node would take now, and what that depends on (pure)
    width       how many objects are sent at once at a notice (pure)
    learning    rates from what was measured (pure)
    rates       what this node was measured at, for all threads
    table       a plan for people (pure)
    document    a plan for programs (pure)
    outlook     what would become of the node now, and what of that is news (pure)
    lookahead   tells that all the time, where machines are taken back
    page        tells whoever asks
    command     ``architect-spot``, which asks

``docs/spot.md`` has the model in words, and what it does not know.
"""
