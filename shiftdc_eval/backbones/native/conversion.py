"""Version of the folders that the converters write."""

CONVERSION = 2
"""What `config.json` says under `conversion`; raised when folders written before give other prompts or pixels."""
