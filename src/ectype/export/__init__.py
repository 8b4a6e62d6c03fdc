"""Sharing a trained model: graphs for other programs, folders, the Hugging Face Hub, and model cards."""
