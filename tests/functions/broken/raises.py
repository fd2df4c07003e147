raise ImportError("deliberate: not today")
