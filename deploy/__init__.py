"""block-deploy: from one file to a running fleet and back."""
