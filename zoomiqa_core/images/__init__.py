"""Reading, checking, converting and drawing images."""
