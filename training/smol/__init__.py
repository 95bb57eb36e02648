"""A small research model on a real pretrained language model: `pretrained=smol`."""
