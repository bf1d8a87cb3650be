"""`headrace graduate --cluster`: a model in a cluster, moved while it serves."""
