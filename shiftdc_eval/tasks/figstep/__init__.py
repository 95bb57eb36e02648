"""FigStep: harmful instructions shown as a picture of an empty numbered list."""
