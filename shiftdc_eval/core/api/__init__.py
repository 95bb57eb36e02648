"""The client of OpenAI-compatible servers, for judges and for models under evaluation."""
