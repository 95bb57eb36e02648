"""A defense, a judge and a keyword list that shiftdc-eval finds once this package is installed."""
