"""A sweep on a Ray cluster of two nodes, which this script starts on one machine.

cd examples/cluster
python two_nodes.py

On real machines `ray start` makes the cluster, and `samtune run sam --address HOST:6379` joins it.
"""

import os
import secrets

# All processes of a cluster share a token.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

from ray.cluster_utils import Cluster

import samtune

SHORT = {"budget.trials": 4, "budget.per_trial": 2, "asha.grace": 2}


def main() -> None:
    """Start a head and two nodes of one CPU each, and run four trials on them."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    try:
        run = samtune.run("sam", name="nodes", set=SHORT, confirm=False, address=cluster.address)
    finally:
        cluster.shutdown()
    print(run.trials[["trial", "state", "val_acc"]].to_string(index=False))


if __name__ == "__main__":
    main()
