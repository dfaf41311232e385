"""What a search leaves on disk: a page, a picture, a record."""
