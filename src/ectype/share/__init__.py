"""Handing a trained model on: exports, the Hub, model cards, and checks on what comes in."""
