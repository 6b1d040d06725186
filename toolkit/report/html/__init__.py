"""The report as one HTML file: what it shows (data.py), how it is packed (pack.py), and the page itself."""
