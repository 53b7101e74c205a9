"""What scores the chunks of a bulk run: this machine, a Ray cluster, or a Runpod endpoint.

    base.py               the interface: chunks in, scored chunks out
    local.py              --engine local: this process and its device
    ray_options.py        --engine ray: its command-line options and its factory
    ray_cluster.py        connects to a Ray cluster or starts one; plans the actors
    ray_engine.py         the engine: a call to an actor for each part
    ray_pool.py           the actors: calls go to whichever is free; dead ones are replaced
    ray_actors.py         what runs in Ray's own processes
    runpod_options.py     --engine runpod: its command-line options and its factory
    runpod_engine.py      packs chunks into jobs and keeps jobs in flight
    runpod_jobs.py        one job: submit, poll, retry, check the reply
    runpod_client.py      HTTP requests to one endpoint

For each ``--engine``, ``local``, ``ray_options`` or ``runpod_options`` has the functions
``add_arguments``, ``check`` and ``make_engine``.
"""
