"""SIUO: questions and images that are safe alone and unsafe together."""
