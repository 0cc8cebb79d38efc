"""Who runs the plan, and where: the only place that imports ray.

``run.run`` is the way in; ``trainable`` trains on a worker, ``searcher`` hands out the plan, ``progress`` shows it.
"""
