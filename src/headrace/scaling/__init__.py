"""How many replicas a load needs: pure policies by name, one vocabulary for all."""
