"""Node pools as commands for AKS and as objects for Karpenter."""
