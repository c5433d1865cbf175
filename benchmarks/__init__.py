"""What osamd costs beside osam 0.8.1 and bare ONNX Runtime, measured in one run; see README.md."""
