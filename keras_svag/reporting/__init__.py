"""What a run's verdict looks like: as text, HTML and Markdown."""
