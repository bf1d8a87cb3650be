"""KEDA's external scaler: the gateways' load over gRPC."""
