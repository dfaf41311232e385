"""The web page of ``restoration-guide app``: restore a photo, compare candidates, judge a photo."""
