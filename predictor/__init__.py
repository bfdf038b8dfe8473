"""The side-car service beside one vLLM server."""
