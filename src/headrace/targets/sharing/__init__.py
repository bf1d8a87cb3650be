"""How GPUs are shared in a cluster: NVIDIA's device plugin and mig-parted, configured by what was packed."""
