"""Many clips and photographs at once, on one machine or a cluster: ``recon3d batch``.

source → what is to be done; plan, ledger → what of it has been done, how; run → the coordinator, which gives
tasks to the workers of a pool (processes of this machine, or Ray's actors) and writes down what becomes of
them; work → one task, in a worker.
"""
