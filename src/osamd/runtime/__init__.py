"""ONNX Runtime and the machine it runs on."""
